"""The few figures of vLLM's scheduler that we export, out of what it reports after each step."""

# pyright: reportMissingImports=false
# (vLLM lives in a virtual environment of its own)

from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import IterationStats, MultiModalCacheStats, SchedulerStats

from services.worker.engines.base import EngineStats


class StatsKeeper:
    """Holds the newest figures; vLLM writes on the loop's thread, anybody reads."""

    def __init__(self) -> None:
        self.now = EngineStats(0.0, 0, 0, 0, 0)

    def logger(self, vllm_config: VllmConfig, engine_index: int) -> StatLoggerBase:
        """Return what vLLM reports to (a `PerEngineStatLoggerFactory`)."""
        return _Logger(vllm_config, engine_index, self)

    def add(self, stats: SchedulerStats) -> None:
        """Take the figures of a step."""
        prefix = stats.prefix_cache_stats
        self.now = EngineStats(
            kv_cache_usage=stats.kv_cache_usage,
            running=stats.num_running_reqs,
            waiting=stats.num_waiting_reqs + stats.num_skipped_waiting_reqs,
            prefix_queries=self.now.prefix_queries + prefix.queries,
            prefix_hits=self.now.prefix_hits + prefix.hits,
        )


class _Logger(StatLoggerBase):
    def __init__(
        self, vllm_config: VllmConfig, engine_index: int = 0, keeper: StatsKeeper | None = None
    ) -> None:
        del vllm_config, engine_index
        self._keeper = keeper

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: MultiModalCacheStats | None = None,
        engine_idx: int = 0,
    ) -> None:
        del iteration_stats, mm_cache_stats, engine_idx
        if scheduler_stats is not None and self._keeper is not None:
            self._keeper.add(scheduler_stats)

    def log_engine_initialized(self) -> None:
        """Nothing to log."""
