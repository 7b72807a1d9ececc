"""Records as OpenTelemetry spans, if OTEL_* variables ask for them."""
