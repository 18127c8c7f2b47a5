//! Tests of images as a whole.

mod archives;
mod hostile;
mod peers;
