//! How many connections one address may hold open, authenticated or not.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::server::limits::Network;

#[derive(Clone, Default)]
pub struct Places {
    taken: Arc<Mutex<HashMap<Network, u32>>>,
}

/// One connection's place; given back when it is dropped.
pub struct Place {
    taken: Arc<Mutex<HashMap<Network, u32>>>,
    network: Network,
}

impl Places {
    /// None when the address has `limit` already.
    pub fn take(&self, address: IpAddr, limit: u32) -> Option<Place> {
        let network = Network::of(address);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(network).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Place { taken: Arc::clone(&self.taken), network })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_places_back_when_connections_end() {
        let places = Places::default();
        let address = IpAddr::from([192, 0, 2, 1]);
        let held: Vec<_> = (0..3).map(|_| places.take(address, 3).unwrap()).collect();
        assert!(places.take(address, 3).is_none());
        assert!(places.take(IpAddr::from([192, 0, 2, 2]), 3).is_some());
        drop(held);
        assert!(places.take(address, 3).is_some());
        assert!(places.taken.lock().unwrap().is_empty());
    }
}
