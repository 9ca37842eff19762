//! The one place that chooses cryptography: TLS provider, QUIC glue, keys and sealing.
