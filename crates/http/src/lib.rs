//! One blocking HTTP client: TLS roots, retries with back-off, resume, limits.
