//! The native routes, one file per resource.

use crate::openapi::Routes;

/// Returns all of them.
pub(crate) fn all() -> Routes {
    Routes::new()
}
