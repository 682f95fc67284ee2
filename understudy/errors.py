"""Every error a user can meet: what is wrong, what to do, and the exit code that says which kind it was."""

from __future__ import annotations

from understudy.redaction import redact


class UnderstudyError(Exception):
    """One clear sentence for a person, a hint that says what to do, and the exit code of the command line.

    Args:
        message: what is wrong, in one sentence without a full stop.
        hint: what to do about it, in one sentence; empty when there is nothing to do.
        next_command: a command ready to paste; empty when there is none.
    """

    exit_code = 1
    kind = "error"

    def __init__(self, message: str, *, hint: str = "", next_command: str = "") -> None:
        """Keep the sentence and what to do about it, without any secret that this process has resolved."""
        super().__init__(redact(message))
        self.message = redact(message)
        self.hint = redact(hint)
        self.next_command = next_command

    def __str__(self) -> str:
        """Render the sentence as the terminal and the run page show it."""
        text = self.message
        if self.hint:
            text += f". {self.hint[0].upper()}{self.hint[1:]}"
        if self.next_command:
            text += f".  next: {self.next_command}"
        return text


class Transient(UnderstudyError):
    """May succeed when tried again, unchanged."""

    exit_code = 9
    kind = "transient"


class Throttled(Transient):
    """The server asked for fewer calls."""

    kind = "throttled"


class Unreachable(Transient):
    """No answer: refused, timed out, reset, or a 5xx."""

    kind = "unreachable"


class Permanent(UnderstudyError):
    """Fails again until something else changes."""

    kind = "permanent"


class NotFound(Permanent):
    """What was asked for is not there."""

    exit_code = 5
    kind = "not_found"


class Denied(Permanent):
    """The credentials do not allow it."""

    exit_code = 3
    kind = "denied"


class Conflict(Permanent):
    """A compare-and-set lost, or something else stands where this was to be created."""

    kind = "conflict"


class Unsupported(Permanent):
    """The vendor, or the data, cannot do what was asked."""

    exit_code = 2
    kind = "unsupported"


class Corrupt(Permanent):
    """Bytes are not what their digest says."""

    exit_code = 8
    kind = "corrupt"


class InvalidConfig(Permanent):
    """The config or a secret is missing or wrong."""

    exit_code = 3
    kind = "config"


class Refused(Permanent):
    """A gate said no; nothing was changed."""

    exit_code = 4
    kind = "refused"


class NotReady(Permanent):
    """A target is missed, or what is needed is not complete yet."""

    exit_code = 5
    kind = "not_ready"


class HeldByAnother(Permanent):
    """Another commander holds the epoch."""

    exit_code = 6
    kind = "held"


class StoppedPartWay(Permanent):
    """Stopped after the first effect; the same command resumes."""

    exit_code = 7
    kind = "stopped"
