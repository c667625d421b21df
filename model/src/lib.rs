//! What a record means: the names of its headers and the position it carries.
