//! placeholder

pub mod receive;
pub mod smtp;
