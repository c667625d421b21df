//! Every limit of the loader, each with its reason.

/// A configuration file. A thousand sources need about 200 KB; a larger file is a mistake, such as
/// a log given in its place.
pub(crate) const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// How deep sections nest. Ours need five; the tree is built and dropped by recursion.
pub(crate) const DEPTH_MAX: usize = 32;

/// Keys and values of one file: bounds memory to some tens of megabytes.
pub(crate) const NODES_MAX: usize = 100_000;

/// Problems shown of one file. More is noise: one slip of indentation can make a hundred.
pub(crate) const PROBLEMS_MAX: usize = 50;

/// Problems noted of one file. Past it the search for the nearest word would take seconds.
pub(crate) const PROBLEMS_KEPT_MAX: usize = 1_000;

/// Characters of a message: it quotes what was written, which may be a whole file.
pub(crate) const MESSAGE_CHARS_MAX: usize = 1_000;

/// Characters of a source line that are shown under a problem.
pub(crate) const EXCERPT_CHARS_MAX: usize = 160;

/// A value after substitution of its environment variables.
pub(crate) const VALUE_BYTES_MAX: usize = 64 * 1024;

/// A join token. The longest has 16 addresses of the longest host names.
pub(crate) const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Addresses in a join token: more aggregators than one agent would ever try in turn.
pub(crate) const JOIN_ADDRESSES_MAX: usize = 16;

/// An agent's id: a host name's label has 63.
pub(crate) const AGENT_ID_BYTES_MAX: usize = 64;
