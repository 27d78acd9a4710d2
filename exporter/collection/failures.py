"""Why a try failed: the chain of exceptions, read from its innermost, becomes one reason."""

import traceback
from collections.abc import Iterator

from exporter.collection.places import Circumstances, place_of
from exporter.collection.redaction import redact
from exporter.collection.sessions import Session
from exporter.errors import CollectionFailed, Reason

MESSAGE_CHARACTERS = 200
DETAILS_CHARACTERS = 20_000


def failure_of(error: Exception, session: Session) -> CollectionFailed:
    """The failure that an exception of the libraries means, redacted."""
    seen = Circumstances(
        has_connected=session.has_connected(),
        is_open=session.connected_at is not None,
        is_ready=session.ready_at is not None,
    )
    # After the deadline every exception is its consequence, whatever it says.
    cut = session.was_cut
    reason, decisive = reason_of(error, seen) if cut is None else (_reason_of_cut(cut), cut)
    return failure(
        session,
        reason,
        f"{type(decisive).__name__}: {_first_line(decisive)}",
        details="".join(traceback.format_exception(error)),
    )


def failure(
    session: Session, reason: Reason, message: str, *, details: str = ""
) -> CollectionFailed:
    """A failure of this session's try, redacted and cut to what is kept."""
    login, platform = session.request.login, session.platform
    return CollectionFailed(
        reason,
        redact(message, login, platform)[:MESSAGE_CHARACTERS],
        details=redact(details, login, platform)[-DETAILS_CHARACTERS:],
        times=session.times(),
        last_screen=redact(session.screen, login, platform),
    )


def reason_of(error: BaseException, seen: Circumstances) -> tuple[Reason, BaseException]:
    """The reason and the exception that decided it.

    The innermost exception with a place decides: what is around it was raised while handling it
    and mostly says less (NAPALM flattens everything to `Cannot connect`).
    """
    chain = list(reversed(list(_chain(error))))
    for one in chain:
        place = place_of(type(one))
        reason = place if isinstance(place, Reason) else place and place(one, seen)
        if reason:
            return reason, one
    # A driver that stumbles over what it met while opening does not fit the device.
    is_misfit = isinstance(error, (LookupError, ValueError, TypeError, AttributeError))
    if is_misfit and seen.has_connected and not seen.is_ready:
        return Reason.UNSUPPORTED, error
    return Reason.INTERNAL, error


def _reason_of_cut(cut: BaseException) -> Reason:
    place = place_of(type(cut))
    return place if isinstance(place, Reason) else Reason.INTERNAL


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and those it was raised from or while handling, outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        # PyEZ keeps the original exception in an attribute.
        error = error.__cause__ or error.__context__ or getattr(error, "_orig", None)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "(no text)"


__all__ = ["failure", "failure_of", "reason_of"]
