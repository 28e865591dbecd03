"""pynetdicom's upper layer and message exchange, held to limits: whatever is sent costs bounded memory, disk and time.

What is refused ends its association at most, and each association lets go of its socket, threads and drafts when it
ends, however it ends. pynetdicom has no public place for most of these limits, so classes of it are extended here and
nowhere else.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import Any, cast

from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_ECHO_RQ, C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class
from pynetdicom.transport import AddressInformation, AssociationSocket, RequestHandler, ThreadedAssociationServer

from dcmark.arrival.spool import Draft, Outcome, Spool, usable

LOG = logging.getLogger("dcmark.arrival")
VERIFICATION = "1.2.840.10008.1.1"
PDU_BYTES = 128 * 1024
"""Largest P-DATA-TF that peers are told they may send, bytes: what DCMTK sends at most."""
LARGEST_PDU = 512 * 1024
"""Largest PDU that is read, bytes: an A-ASSOCIATE-RQ may be larger than the above."""
PDU_S = 30.0
"""In which a PDU has to be read or written whole, and a TLS handshake to be done, seconds."""
REQUEST_S = 10.0
"""In which a connection has to ask for an association, whole, seconds."""
IDLE_S = 60.0
"""After which an association on which nothing comes is aborted, seconds."""
LONGEST_COMMAND = 64 * 1024
"""Largest command set, bytes."""
MOST_PENDING = 2
"""Requests on one association that wait. One is agreed upon (PS3.7 D.3.3.3): who sends more is cut off."""
SPARE_CONNECTIONS = 8
"""Above the number of associations, for those who are told that there are too many."""
STATUS: dict[Outcome, int] = {
    "stored": 0x0000,
    "too-large": 0xA700,
    "no-room": 0xA700,
    "mismatch": 0xA900,
    "not-understood": 0xC000,
}
"""Status of a C-STORE (PS3.4 table B.2-1)."""


class BoundedSocket(AssociationSocket):
    """Reads no PDU above the limit, and none slower than the limit."""

    def recv(self, nr_bytes: int) -> bytearray:
        """Exactly so many bytes, or fewer where the connection ends. Raises OSError."""
        if nr_bytes > LARGEST_PDU or self.socket is None:
            raise OSError("a PDU above the limit")
        until, data = time.monotonic() + (PDU_S if self.assoc.is_established else REQUEST_S), bytearray()
        while len(data) < nr_bytes:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError("a PDU that did not come in time")
            self.socket.settimeout(left)
            piece = self.socket.recv(min(65536, nr_bytes - len(data)))
            if not piece:
                break
            data += piece
        if self.socket is not None:
            self.socket.settimeout(PDU_S)
        return data

    def _shutdown_socket(self) -> None:
        bound = self.socket
        if bound is not None:
            with suppress(OSError):
                bound.shutdown(socket.SHUT_RDWR)
            with suppress(OSError):
                bound.close()


class BoundedUpperLayer(DULServiceProvider):
    """Ends without a trace when its association cannot go on."""

    def run_reactor(self) -> None:
        """Until the connection ends."""
        try:
            super().run_reactor()
        except Exception as error:  # noqa: BLE001  an event that does not fit the state, whatever was sent
            LOG.debug("an association ended: %s", type(error).__name__)
        finally:
            if isinstance(self.socket, BoundedSocket):
                self.socket._shutdown_socket()
            cast(Any, self.to_user_queue).put(None)  # wakes who waits for a request


class BoundedMessages(DIMSEServiceProvider):
    """Puts messages together: C-ECHO-RQ and C-STORE-RQ, the data set of the latter straight into the spool."""

    def __init__(self, association: StorageAssociation) -> None:
        super().__init__(association)
        self._spool = association.spool
        self._draft: Draft | None = None
        self._command = 0

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take in a P-DATA; what makes no sense ends the association."""
        try:
            for context, data in primitive.presentation_data_value_list:
                self._fragment(context, data)
        except Exception as error:  # noqa: BLE001  pynetdicom and pydicom raise many kinds for what is no command
            LOG.debug("a message that makes no sense: %s", type(error).__name__)
            self.discard()
            self.dul.event_queue.put("Evt19")

    def _fragment(self, context: int, data: bytes) -> None:
        """A presentation data value (PS3.8 annex E): a piece of a command set or of a data set."""
        last = bool(data[0] & 2)
        if data[0] & 1:
            if self.message is None:
                self.message, self._command = DIMSEMessage(), 0
            self._command += len(data)
            if self._command > LONGEST_COMMAND or self.message.context_id is not None:
                raise ValueError("a command set that is too long, or in the middle of a data set")
            one: Any = P_DATA()
            one.presentation_data_value_list = [[context, data]]
            # pynetdicom decodes the command set with its last fragment.
            complete = self.message.decode_msg(one, self.assoc)
            if last:
                self._commanded(self.message, context, complete)
        else:
            if self._draft is None or self.message is None or self.message.context_id != context:
                raise ValueError("a data set without a command that has one")
            self._draft.write(memoryview(data)[1:])
            if last:
                self._complete()

    def _commanded(self, message: DIMSEMessage, context: int, complete: bool) -> None:
        if isinstance(message, C_STORE_RQ) and not complete:
            command = message.command_set
            syntax = self.assoc._accepted_cx[context].transfer_syntax[0]
            self._draft = self._spool.draft(
                str(command.AffectedSOPClassUID or ""), str(command.AffectedSOPInstanceUID or ""), str(syntax)
            )
        elif isinstance(message, C_ECHO_RQ) and complete:
            self._complete()
        else:
            raise ValueError("a message that is not served here")

    def _complete(self) -> None:
        message, draft = self.message, self._draft
        assert message is not None
        request: Any = message.message_to_primitive()
        request.draft = draft
        self.message = self._draft = None
        self.msg_queue.put((message.context_id or 0, request))
        if self.msg_queue.qsize() > MOST_PENDING:
            raise ValueError("more requests than were agreed upon")

    def discard(self) -> None:
        """Let go of what is half received, and of what will not be answered."""
        if self._draft is not None:
            self._draft.drop()
        self.message = self._draft = None
        with suppress(IndexError):
            while True:
                _, request = self.msg_queue.queue.popleft()
                if getattr(request, "draft", None) is not None:
                    cast(Any, request).draft.drop()


class StorageAssociation(Association):
    """One association with somebody who sends."""

    def __init__(self, ae: ApplicationEntity, server: StorageServer) -> None:
        super().__init__(ae, "acceptor")
        self.spool = server.spool
        self._server = server
        # Replaces what was made above, and takes its settings: each is handed its association when it is made.
        self.dul = BoundedUpperLayer(self)
        self.dul.artim_timer.timeout = ae.acse_timeout
        self.dul._idle_timer.timeout = ae.network_timeout
        self.dimse = BoundedMessages(self)

    def run_reactor(self) -> None:
        """Until it is released, aborted or refused."""
        try:
            super().run_reactor()
        except Exception as error:  # noqa: BLE001  a request for an association that makes no sense
            LOG.debug("an association ended: %s", type(error).__name__)
        finally:
            self._kill = True
            self.dul.kill_dul()
            if isinstance(self.dul.socket, BoundedSocket):
                self.dul.socket._shutdown_socket()
            if self.dul.is_alive():
                self.dul.join(PDU_S)
            if isinstance(self.dimse, BoundedMessages):
                self.dimse.discard()
            if isinstance(self._server, StorageServer):
                self._server.ended(self)

    def _serve_request(self, msg: Any, context_id: int) -> None:
        if not isinstance(msg, C_STORE):
            super()._serve_request(msg, context_id)
            return
        draft: Draft | None = getattr(msg, "draft", None)
        if draft is None or not msg.is_valid_request:
            if draft is not None:
                draft.drop()
            self.abort()
            return
        outcome = draft.finish()
        if isinstance(self._server, StorageServer):
            self._server.told(outcome)
        answer = C_STORE()
        answer.MessageID = answer.MessageIDBeingRespondedTo = msg.MessageID
        answer.AffectedSOPClassUID = msg.AffectedSOPClassUID
        answer.AffectedSOPInstanceUID = msg.AffectedSOPInstanceUID
        answer.Status = STATUS[outcome]
        self.dimse.send_msg(answer, context_id)


class _Handler(RequestHandler):
    """Makes an association of a connection."""

    server: StorageServer

    def _create_association(self) -> Association:
        association = StorageAssociation(self.ae, self.server)
        association.name = f"AcceptorThread@{id(association):x}"  # the name by which pynetdicom finds it
        association.set_socket(BoundedSocket(association, client_socket=self.request))
        ours, theirs = association.acceptor, association.requestor
        ours.maximum_length = self.ae.maximum_pdu_size
        ours.ae_title = self.server.ae_title
        ours.address_info = self.local
        ours.implementation_class_uid = self.ae.implementation_class_uid
        ours.implementation_version_name = self.ae.implementation_version_name
        ours.supported_contexts = [build_context(VERIFICATION)]
        theirs.address_info = AddressInformation.from_tuple(self.client_address)
        association.bind(evt.EVT_REQUESTED, _offer_storage)
        self.server.began(association)
        return association


def _offer_storage(event: Any) -> None:
    """Support what was asked for, where it is storage or may be: private and unknown classes, every transfer syntax."""
    asked: dict[str, list[str]] = {}
    for context in event.assoc.requestor.primitive.presentation_context_definition_list:
        syntaxes = [str(one) for one in context.transfer_syntax or () if usable(str(one))]
        if usable(str(context.abstract_syntax)) and syntaxes:
            known = asked.setdefault(str(context.abstract_syntax), [])
            known += [one for one in syntaxes if one not in known]
    offered: list[PresentationContext] = [build_context(VERIFICATION)]
    # The base class stands for what nobody knows.
    offered += [
        build_context(uid, syntaxes)
        for uid, syntaxes in asked.items()
        if uid_to_service_class(uid) in (StorageServiceClass, ServiceClass)
    ]
    event.assoc.acceptor.supported_contexts = offered


class StorageServer(ThreadedAssociationServer):
    """Accepts connections, as many as are allowed at once.

    Args:
        ae: title, allowed titles and timeouts.
        address: host and port.
        spool: where objects go.
        tls: for TLS; None without.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, ae: ApplicationEntity, address: tuple[str, int], spool: Spool, tls: Any = None) -> None:
        self.spool = spool
        self.outcomes: dict[Outcome, int] = dict.fromkeys(STATUS, 0)
        self._guard = threading.Lock()
        self._open = 0
        self._associations: set[Association] = set()
        super().__init__(ae, address, ae.ae_title, [build_context(VERIFICATION)], tls, None, _Handler)
        for event in (evt.EVT_DIMSE_RECV, evt.EVT_DIMSE_SENT, evt.EVT_PDU_RECV, evt.EVT_PDU_SENT):
            for handler, _ in [*self.get_handlers(event)]:  # those that write what was sent into a log
                self.unbind(event, handler)
        ae._servers.append(self)

    # -- connections ------------------------------------------------------------------------------

    def get_request(self) -> tuple[socket.socket, Any]:
        """A new connection; TLS is left to its thread, for a handshake takes as long as the other side likes."""
        assert self.socket is not None
        accepted, address = self.socket.accept()
        accepted.settimeout(PDU_S)
        with suppress(OSError):
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return accepted, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Is there room for another connection?"""
        del request, client_address
        with self._guard:
            if self._open >= self.ae.maximum_associations + SPARE_CONNECTIONS:
                return False
            self._open += 1
            return True

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Make an association of a connection."""
        try:
            if self.ssl_context is not None:
                request = _handshake(self.ssl_context, request)
            self.finish_request(request, client_address)
        except Exception as error:  # noqa: BLE001  whatever was sent
            LOG.debug("a connection ended: %s", type(error).__name__)
            self.shutdown_request(request)
            self._closed()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """No thread could be started."""
        del request, client_address
        self._closed()

    def _closed(self) -> None:
        with self._guard:
            self._open -= 1

    def began(self, association: Association) -> None:
        """An association is about to start."""
        with self._guard:
            self._associations.add(association)

    def ended(self, association: Association) -> None:
        """An association let go of its connection."""
        with self._guard:
            self._open -= association in self._associations
            self._associations.discard(association)

    def told(self, outcome: Outcome) -> None:
        """A sender is told what became of an object."""
        with self._guard:
            self.outcomes[outcome] += 1

    @property
    def active_associations(self) -> list[Association]:
        """Those that run."""
        with self._guard:
            return [*self._associations]


def _handshake(context: ssl.SSLContext, plain: socket.socket) -> ssl.SSLSocket:
    """TLS over a connection, in time. Closes the connection and raises OSError where there is none."""
    secured = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
    until = time.monotonic() + REQUEST_S
    try:
        secured.settimeout(0)
        while True:
            left = max(0.0, until - time.monotonic())
            try:
                secured.do_handshake()
            except ssl.SSLWantReadError:
                if not left or not select.select([secured], [], [], left)[0]:
                    raise TimeoutError("no handshake in time") from None
            except ssl.SSLWantWriteError:
                if not left or not select.select([], [secured], [], left)[1]:
                    raise TimeoutError("no handshake in time") from None
            else:
                secured.settimeout(PDU_S)
                return secured
    except BaseException:
        secured.close()
        raise
