//! The frame codec of the guest wire and of the helper protocol.
