"""How an encoded field looks at rest, and how much room it may take there.  Text in, text out."""

from vedsess_middleware.sealing.sealers import MARKS, FieldSealer, Opened, PlainSealer, Sealer, field_sealer
from vedsess_middleware.sealing.sizes import check_sizes, largest
from vedsess_middleware.sealing.texts import ends_at

__all__ = [
    "MARKS",
    "FieldSealer",
    "Opened",
    "PlainSealer",
    "Sealer",
    "check_sizes",
    "ends_at",
    "field_sealer",
    "largest",
]
