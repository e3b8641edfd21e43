"""The arrays of MLX: their memory, streams, threads and transformations."""

from bridge._arrays.mlx.backend import (
    ARRAYS as ARRAYS,
    copy_as_constants as copy_as_constants,
    is_module as is_module,
)
from bridge._arrays.mlx.handles import Handle as Handle, pop as pop
from bridge._arrays.mlx.memory import (
    dtype_of as dtype_of,
    overwrite as overwrite,
    own_memory as own_memory,
    zeros as zeros,
)
from bridge._arrays.mlx.streams import (
    compute_stream as compute_stream,
    evaluation_lock as evaluation_lock,
    lazy_stream as lazy_stream,
    release_lock as release_lock,
    releases_lock as releases_lock,
)
from bridge._arrays.mlx.threads import (
    note_thread as note_thread,
    on_other_thread as on_other_thread,
)
from bridge._arrays.mlx.transforms import (
    TracerError as TracerError,
    async_evaluate as async_evaluate,
    captures_traced as captures_traced,
    evaluate as evaluate,
    keeping_graph as keeping_graph,
    keeps_graphs_for_others as keeps_graphs_for_others,
    placeholder as placeholder,
    transforming as transforming,
    unmarked_placeholder as unmarked_placeholder,
    vjp_rule as vjp_rule,
)
