//! FFI declarations of the pool, the templates and the confinement.
