//! Tests of reader and writer together.

// Fields of a file by hand, without the writer, for the two below.
mod raw;
// Files that must be refused: which field is at fault and where.
mod faults;
// Whatever the bytes are, the reader returns.
mod hostile;
// What is written is read back, field by field.
mod round_trips;
// How a file comes into being on disk.
mod writing;
