"""What tests and benchmarks both run against: S3 servers, a faulty proxy, small artifacts, text and tokenizers."""
