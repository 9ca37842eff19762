//! The HTTP API of a cluster node, as a service to mount.
