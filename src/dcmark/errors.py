"""Every error dcmark raises on purpose.

    DcmarkError                 code        exit
    |-- UsageError              usage       2     the call itself is wrong
    |   |-- QueryError          query       2     SQL that DuckDB refuses
    |   `-- MissingExtraError   extra       2     an optional dependency is not installed
    |-- SourceError             source      1     a source cannot be read
    |-- UnsupportedError        unsupported 1     a correct request that cannot be met
    |   `-- DecodeError         decode      1     a frame that no codec could turn into values
    |-- ValueMeaningError       meaning     1     a physical value whose needed attributes are missing
    |-- HeldBackError           held-back   3     a file that cannot be de-identified with certainty
    |-- VaultKeyError           vault-key   1     not the key or passphrase of a vault
    |-- LimitError              limit       1     a declared size is above what is allowed
    |-- LabelError              label       1     an image has no label, or several
    |-- LeakError               leak        1     one person stands in two parts of a set
    |-- TrainingError           training    1     the training of a model cannot go on
    `-- ArchiveError            archive     1
        |-- FormatVersionError  version     1     written by a newer dcmark, or no archive at all
        |-- OutputExistsError   exists      2     something stands where the output should go
        |-- StorageError        storage     1     the disk is full or refuses
        `-- DamageError         damage      4     stored bytes are not what was stored

The message says what was expected, what was found and what to do. ``code`` is stable and
may be relied upon by scripts; the exit code is what the command line ends with.
"""

from __future__ import annotations

from typing import ClassVar


class DcmarkError(Exception):
    """Base of all errors of dcmark."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1


class UsageError(DcmarkError):
    """The call is wrong: an unknown word, an option that does not fit."""

    code = "usage"
    exit_code = 2


class QueryError(UsageError):
    """The SQL was refused."""

    code = "query"


class MissingExtraError(UsageError):
    """An optional dependency is not installed; the message names the extra."""

    code = "extra"

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed; "
            f"install it with: pip install 'dcmark[{extra}]'"
        )
        self.package, self.extra = package, extra


class SourceError(DcmarkError):
    """A source (folder, file, zip, tar, 7z) cannot be read."""

    code = "source"


class HeldBackError(DcmarkError):
    """A file that cannot be de-identified with certainty; it is not passed on."""

    code = "held-back"
    exit_code = 3


class VaultKeyError(DcmarkError):
    """Not the key or passphrase of a vault."""

    code = "vault-key"


class UnsupportedError(DcmarkError):
    """A well-formed request that dcmark cannot meet for this input."""

    code = "unsupported"


class DecodeError(UnsupportedError):
    """No codec could turn a frame into stored values."""

    code = "decode"


class ValueMeaningError(DcmarkError):
    """A physical value was asked for and an attribute that defines it is missing."""

    code = "meaning"


class LimitError(DcmarkError):
    """A declared or real size is above the limit in force."""

    code = "limit"


class LabelError(DcmarkError):
    """An image has no label, several, or one of another kind."""

    code = "label"


class LeakError(DcmarkError):
    """One person, study or file stands in two parts of a set."""

    code = "leak"


class TrainingError(DcmarkError):
    """The training of a model cannot go on: it diverged, or the run directory does not fit."""

    code = "training"


class ArchiveError(DcmarkError):
    """Something about an archive."""

    code = "archive"


class FormatVersionError(ArchiveError):
    """Not a dcmark archive, or one of a format this release does not know."""

    code = "version"


class OutputExistsError(ArchiveError):
    """The place to write to is taken and overwriting was not asked for."""

    code = "exists"
    exit_code = 2


class StorageError(ArchiveError):
    """The storage under the archive or the output refused: full, read-only, gone."""

    code = "storage"


class DamageError(ArchiveError):
    """Stored bytes are not the bytes that were stored."""

    code = "damage"
    exit_code = 4
