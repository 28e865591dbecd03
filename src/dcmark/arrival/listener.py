"""A C-STORE and C-ECHO provider (PS3.4 annexes A and B) whose objects go into a spool."""

from __future__ import annotations

import ipaddress
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from pynetdicom.ae import ApplicationEntity

from dcmark.arrival.spool import Outcome, Spool
from dcmark.arrival.upper import IDLE_S, PDU_BYTES, PDU_S, REQUEST_S, StorageServer
from dcmark.errors import UsageError

ANY = "*"
END_S = 5.0
"""How long associations may go on when the listener ends, seconds."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where and how to listen.

    Attributes:
        host: address or name.
        port: 0 for any that is free.
        aet: own AE title; associations that call another are rejected.
        allow: AE titles that may call; ``*`` or none: all.
        allow_remote: others than this computer may connect.
        certificate, key: PEM files for TLS.
        authority: PEM file; clients need a certificate that one of it signed.
        associations: at once.
    """

    host: str = "127.0.0.1"
    port: int = 0
    aet: str = "DCMARK"
    allow: tuple[str, ...] = ()
    allow_remote: bool = False
    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None
    associations: int = 16

    def checked(self) -> Listening:
        """Itself, when it may listen so.

        Raises:
            UsageError: beyond this computer without saying so and whom to let in, no AE title, missing files.
        """
        for title in (self.aet, *self.allow):
            if not title.strip() or len(title) > 16 or not title.isascii() or not title.isprintable() or "\\" in title:
                raise UsageError(f"expected an AE title of 1 to 16 printable characters, found {title!r}")
        if self.associations < 1:
            raise UsageError(f"expected at least one association, found {self.associations}")
        if (self.certificate is None) != (self.key is None):
            raise UsageError("expected --tls-cert and --tls-key together, found one of them")
        if self.authority is not None and self.certificate is None:
            raise UsageError("expected --tls-ca with --tls-cert and --tls-key, found it alone")
        for file in (self.certificate, self.key, self.authority):
            if file is not None and not file.is_file():
                raise UsageError(f"expected a PEM file at {file}, found none")
        if not _loopback(self.host):
            if not self.allow_remote:
                raise UsageError(
                    f"--host {self.host} lets other computers send into the archive; if that is what you want, add "
                    "--allow-remote and --allow AET for each that may"
                )
            if not self.allow:
                raise UsageError(
                    "expected --allow AET with --allow-remote, once for each AE title that may send; '*' lets all"
                )
        return self

    def tls(self) -> ssl.SSLContext | None:
        """What TLS needs; None without a certificate.

        Raises:
            UsageError: the files are no certificate and key.
        """
        if self.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key)
            if self.authority is not None:
                context.load_verify_locations(self.authority)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ValueError) as error:
            raise UsageError("expected a certificate and its key in PEM files, found others") from error
        return context


class Listener:
    """Listens from when it is made.

    Args:
        where: to listen.
        spool: takes the objects. An object that does not fit into its limit is refused with status 0xA700, one that
            is none with 0xC000, one that is another than was announced with 0xA900; the association goes on.

    Raises:
        UsageError: it may not, or cannot listen there.
    """

    def __init__(self, where: Listening, spool: Spool) -> None:
        where.checked()
        entity = ApplicationEntity(where.aet)
        entity.require_called_aet = True
        if where.allow and ANY not in where.allow:
            entity.require_calling_aet = [*where.allow]
        entity.maximum_associations = where.associations
        entity.maximum_pdu_size = PDU_BYTES
        entity.acse_timeout, entity.dimse_timeout, entity.network_timeout = REQUEST_S, PDU_S, IDLE_S
        try:
            self._server = StorageServer(entity, (where.host, where.port), spool, where.tls())
        except OSError as error:
            raise UsageError(
                f"expected to listen on {where.host} port {where.port}, found: {error.strerror or 'refused'}; "
                "choose another --port"
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="dcmark-listen", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """What became of the objects that were sent, how many of each."""
        return dict(self._server.outcomes)

    @property
    def associations(self) -> int:
        """How many run."""
        return len(self._server.active_associations)

    def stop(self, patience: float = END_S) -> None:
        """Accept nobody any more, give those who send a moment, then abort them."""
        self._server.shutdown()
        self._thread.join()
        until = time.monotonic() + patience
        while self._server.active_associations and time.monotonic() < until:
            time.sleep(0.05)
        for association in self._server.active_associations:
            association.abort()
        for association in self._server.active_associations:
            association.join(patience)


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
