"""Redis as of an epoch: the way to it, and the script that names the epoch."""

from vedsess_middleware.stores.redis.scripts import session_script
from vedsess_middleware.stores.redis.wire import Argument, Call, Wire

__all__ = ["View"]


class View:
    """Calls the script of an epoch.

    Args:
        wire: the way to Redis.
        session: prefix of the records.
        epoch: empty: any copy counts.

    Attributes:
        script: of this epoch.
    """

    def __init__(self, wire: Wire, *, session: str, epoch: str = "") -> None:
        self.wire, self.session, self.epoch = wire, session, epoch
        self.script = session_script(epoch)

    def under(self, epoch: str) -> "View":
        """The same Redis under an epoch, whose script is never installed by asking."""
        return View(self.wire.as_strict(), session=self.session, epoch=epoch)

    def call(self, name: str, key: str, *arguments: Argument) -> Call:
        """A branch of the script, on a record."""
        return Call(self.script, [self.session + key], [*arguments, name])

    def call_on(self, name: str, other: str, *arguments: Argument) -> Call:
        """The same on another key, by its whole name."""
        return Call(self.script, [other], [*arguments, name])
