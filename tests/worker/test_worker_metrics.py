from services.worker.metrics import EngineStats, WorkerMetrics


def test_figures_of_the_engine_are_read_at_each_scrape() -> None:
    now = EngineStats(0.0, 0, 0, 0, 0)
    registry = WorkerMetrics(lambda: now).registry
    now = EngineStats(kv_cache_usage=0.5, running=3, waiting=2, prefix_queries=100, prefix_hits=64)
    assert registry.get_sample_value("galen_worker_kv_cache_usage_ratio") == 0.5
    assert registry.get_sample_value("galen_worker_scheduler_running_requests") == 3
    assert registry.get_sample_value("galen_worker_scheduler_waiting_requests") == 2
    assert registry.get_sample_value("galen_worker_prefix_cache_queried_tokens_total") == 100
    assert registry.get_sample_value("galen_worker_prefix_cache_hit_tokens_total") == 64
