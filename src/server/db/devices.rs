//! Devices, identities, certificates and signed device lists.
