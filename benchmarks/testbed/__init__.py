"""S3 servers, a faulty proxy, small artifacts, text and tokenizers, for tests and benchmarks alike."""
