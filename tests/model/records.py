"""How records are compared and merged."""

from tests.model.rules import Bounds, Rules
from tests.model.state import Fields, Row, Snapshot, State, Version, Worker, join, raised, with_worker


class Records:
    """Versions, merging, and the trust of a process."""

    def __init__(self, rules: Rules, bounds: Bounds) -> None:
        """Take the protocol and the bounds of a run."""
        self.rules, self.bounds = rules, bounds

    def covers(self, version: Version, token: Version) -> bool:
        """Tell whether a record of this version is new enough."""
        if not self.rules.pair:
            return sum(version) >= sum(token)
        return version[0] >= token[0] and version[1] >= token[1]

    def merged(self, x: Snapshot | Row, y: Snapshot | Row) -> Fields:
        """Return the fields of both records, the higher stamp wins."""
        if not self.rules.stamps:
            return x.fields if sum(x.version) >= sum(y.version) else y.fields
        newer = x.fields if x.fields.stamp >= y.fields.stamp else y.fields
        return Fields(newer.stamp, newer.writer, x.fields.own | y.fields.own)

    def written(self, fields: Fields, version: Version, writer: int, deletes: bool) -> Fields:
        """Return the fields after this write."""
        stamp = (0, 0) if deletes and not self.rules.deletion_stamp else version
        return Fields(stamp, writer, fields.own | 1 << writer)

    def into_row(self, row: Row, snap: Snapshot) -> Row:
        """Return what a mirror makes of the row."""
        if row.tomb:
            return row
        if snap.tomb:
            return row._replace(version=(row.version[0] + 1, snap.version[1]), dirty=self.rules.dirty, tomb=True)
        if not self.rules.stamps:
            return self.overwritten(row, snap)
        version, fields = join(row.version, snap.version), self.merged(row, snap)
        if fields == row.fields and self.covers(row.version, snap.version):
            return row  # late or repeated
        follows = fields == snap.fields and (not self.rules.claim or row.version[0] == snap.version[0])
        if not row.fields.own or (follows and not row.dirty):
            return row._replace(version=version, fields=fields)  # SQL simply follows
        return Row(raised(version), fields, self.rules.dirty)  # each had something that the other lacked

    def overwritten(self, row: Row, snap: Snapshot) -> Row:
        """Return what a mirror without stamps makes of the row."""
        version = join(row.version, snap.version)
        if not row.dirty and not self.covers(row.version, snap.version):
            return row._replace(version=version, fields=snap.fields)
        if not snap.writer or row.version == snap.version:
            return row
        version = raised(version)
        return Row(version, Fields(version, snap.writer, row.fields.own | 1 << snap.writer), self.rules.dirty)

    def mirrored(self, st: State, w: int, snap: Snapshot) -> State:
        """Merge a snapshot into SQL; the process distrusts itself where Redis lacks something."""
        row = self.into_row(st.row, snap)
        if row == st.row:
            return st
        st = st._replace(row=row)
        return self.distrusted(st, w) if row.dirty else st

    def trusted(self, worker: Worker) -> bool:
        """Tell whether this process may answer for this session from Redis."""
        return worker.trust and not worker.deny

    def distrusted(self, st: State, w: int) -> State:
        """Take away the trust of a process."""
        me = st.workers[w]
        return with_worker(st, w, me._replace(trust=False, poll=None if self.rules.distrust else me.poll))
