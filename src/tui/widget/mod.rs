//! Pieces of screens: their state, how it changes, and how it is drawn. A widget knows no client and no other widget's business.

pub mod input;
pub mod picker;
pub mod popup;
pub mod timeline;
pub mod tree;
