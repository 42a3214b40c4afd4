//! The backup of a cluster: one file with all that the cluster knows and the keys of its members, made while it runs,
//! from which other machines become the same cluster. What lies in storage pools and the files of images are not in it.

pub mod archive;
pub mod make;
pub mod restore;
