"""What Prometheus is told."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = found = CollectorRegistry()
        ProcessCollector(registry=found)
        PlatformCollector(registry=found)
        self.requests = Counter(
            "ffserve_requests", "Requests answered.", ["protocol", "route", "status"], registry=found
        )
        self.seconds = Histogram(
            "ffserve_request_seconds",
            "From a request's head to the end of its answer.",
            ["protocol", "route"],
            buckets=SECONDS,
            registry=found,
        )
        self.in_flight = Gauge("ffserve_requests_in_flight", "Requests that are being answered.", registry=found)
        self.batch = Histogram(
            "ffserve_batch_images", "Images of a run of a model.", ["model"], buckets=IMAGES, registry=found
        )
        self.waiting = Gauge("ffserve_waiting_images", "Images that wait for a model.", ["model"], registry=found)
        self.loads = Counter(
            "ffserve_model_loads", "Model files taken up, or not.", ["model", "result"], registry=found
        )
        self.stale = Gauge(
            "ffserve_model_stale", "1 where a new file was refused and the old one answers.", ["model"], registry=found
        )
