"""The worker: TLS sessions in processes that hold no keys."""
