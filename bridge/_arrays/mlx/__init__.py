"""Arrays of MLX."""

from bridge._arrays.mlx.backend import FACE as FACE, constants as constants
from bridge._arrays.mlx.handles import Handle as Handle, taken_back as taken_back
from bridge._arrays.mlx.memory import (
    dtype_of as dtype_of,
    overwrite as overwrite,
    owned as owned,
    zeros as zeros,
)
from bridge._arrays.mlx.streams import (
    building as building,
    computing as computing,
    rested as rested,
    resting as resting,
)
from bridge._arrays.mlx.threads import elsewhere as elsewhere, note_thread as note_thread
from bridge._arrays.mlx.transforms import (
    TracerError as TracerError,
    begin as begin,
    captures_traced as captures_traced,
    in_rule as in_rule,
    placeholder as placeholder,
    remembering as remembering,
    transforming as transforming,
    unmarked as unmarked,
)
