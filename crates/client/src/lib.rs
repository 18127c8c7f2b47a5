//! Registry client: the OCI distribution API seen from outside.
