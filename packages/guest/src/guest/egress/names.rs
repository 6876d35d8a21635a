//! Addresses handed out for names. They lead nowhere by themselves: a connection to one of them is a connection to its name,
//! which the host resolves.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

/// A part of the address space that names get theirs from, and how many have one at a time.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    pub first: Ipv4Addr,
    pub addresses: u32,
    pub names: usize,
}

/// 198.18.0.0/15, reserved for benchmarks and nobody's on the internet.
pub const REDIRECTED: Pool = Pool { first: Ipv4Addr::new(198, 18, 0, 0), addresses: 1 << 17, names: 4_096 };
/// 127.64.0.0/10, where nothing redirects connections and the guest itself listens for each name.
pub const LISTENED: Pool = Pool { first: Ipv4Addr::new(127, 64, 0, 0), addresses: 1 << 22, names: 128 };

/// `by_name`, `by_address` and `order` hold the same names; `order` by when they were last used.
pub struct Names {
    pool: Pool,
    by_name: HashMap<String, u32>,
    by_address: HashMap<u32, Entry>,
    order: BTreeMap<u64, u32>,
    uses: u64,
    next: u32,
}

struct Entry {
    name: String,
    used: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Given {
    pub address: Ipv4Addr,
    /// It was given just now; and which one no longer has a name for that.
    pub fresh: bool,
    pub taken_back: Option<Ipv4Addr>,
}

impl Names {
    pub fn new(pool: Pool) -> Names {
        let (by_name, by_address, order) = (HashMap::new(), HashMap::new(), BTreeMap::new());
        Names { pool, by_name, by_address, order, uses: 0, next: 0 }
    }

    pub fn holds(&self, address: Ipv4Addr) -> bool {
        u32::from(address).wrapping_sub(self.pool.first.into()) < self.pool.addresses
    }

    /// The address of a name, the same for as long as it is remembered. Addresses are given in turn, so that one taken back
    /// is long forgotten by the programs that knew it when it gets another name.
    pub fn address_of(&mut self, name: &str) -> Given {
        if let Some(address) = self.by_name.get(name).copied() {
            self.touch(address);
            return Given { address: address.into(), fresh: false, taken_back: None };
        }
        let taken_back = if self.by_name.len() >= self.pool.names { self.forget_oldest() } else { None };
        let address = self.free_address();
        self.uses += 1;
        self.order.insert(self.uses, address);
        self.by_name.insert(name.to_string(), address);
        self.by_address.insert(address, Entry { name: name.to_string(), used: self.uses });
        Given { address: address.into(), fresh: true, taken_back }
    }

    pub fn name_of(&mut self, address: Ipv4Addr) -> Option<String> {
        self.touch(address.into());
        self.by_address.get(&address.into()).map(|entry| entry.name.clone())
    }

    fn touch(&mut self, address: u32) {
        if let Some(entry) = self.by_address.get_mut(&address) {
            self.uses += 1;
            self.order.remove(&entry.used);
            self.order.insert(self.uses, address);
            entry.used = self.uses;
        }
    }

    fn forget_oldest(&mut self) -> Option<Ipv4Addr> {
        let (used, address) = self.order.iter().next().map(|(used, address)| (*used, *address))?;
        self.order.remove(&used);
        let entry = self.by_address.remove(&address)?;
        self.by_name.remove(&entry.name);
        Some(address.into())
    }

    /// The pool is larger than the number of names, so there is one. Its first and last address stay unused.
    fn free_address(&mut self) -> u32 {
        loop {
            self.next = self.next % (self.pool.addresses - 2) + 1;
            let address = u32::from(self.pool.first) + self.next;
            if !self.by_address.contains_key(&address) {
                return address;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_address_and_an_address_its_name() {
        let mut names = Names::new(REDIRECTED);
        let first = names.address_of("a.example").address;
        let second = names.address_of("b.example").address;
        assert_eq!((first, second), (Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 18, 0, 2)));
        assert_eq!(names.address_of("a.example"), Given { address: first, fresh: false, taken_back: None });
        assert_eq!(names.name_of(second).as_deref(), Some("b.example"));
        assert_eq!(names.name_of(Ipv4Addr::new(198, 19, 0, 1)), None);
        assert!(names.holds(Ipv4Addr::new(198, 19, 255, 255)) && !names.holds(Ipv4Addr::new(198, 20, 0, 0)));
        assert!(!names.holds(Ipv4Addr::new(198, 17, 255, 255)));
    }

    #[test]
    fn a_flood_of_names_costs_bounded_memory_and_takes_back_what_was_used_longest_ago() {
        let pool = Pool { first: Ipv4Addr::new(10, 0, 0, 0), addresses: 16, names: 3 };
        let mut names = Names::new(pool);
        let a = names.address_of("a").address;
        let b = names.address_of("b").address;
        names.address_of("c");
        names.name_of(a);
        assert_eq!(names.address_of("d").taken_back, Some(b));
        assert_eq!((names.name_of(b), names.name_of(a).as_deref()), (None, Some("a")));
        for number in 0..1_000 {
            let given = names.address_of(&format!("n{number}"));
            assert!(names.holds(given.address) && given.fresh);
            assert_eq!(names.name_of(given.address), Some(format!("n{number}")));
            assert_eq!((names.by_name.len(), names.by_address.len(), names.order.len()), (3, 3, 3));
        }
    }

    #[test]
    fn an_address_taken_back_is_not_given_again_at_once() {
        let mut names = Names::new(Pool { first: Ipv4Addr::new(10, 0, 0, 0), addresses: 16, names: 2 });
        let gone = names.address_of("a").address;
        for name in ["b", "c", "d", "e"] {
            assert_ne!(names.address_of(name).address, gone);
        }
    }
}
