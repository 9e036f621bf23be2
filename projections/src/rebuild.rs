//! Computing views anew, beside the copy that is read.
