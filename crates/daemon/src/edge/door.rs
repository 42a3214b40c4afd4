//! How many may be connected at once.
//!
//! Whoever connects gets a [`Seat`], which goes with the connection. There are separate rooms for strangers, for trusted
//! clients and for the unix socket, so that none can take the seats of the others; other members are not counted. A
//! stranger is everybody up to the end of the TLS handshake, and who has shown no trusted certificate by then. Those who
//! come from the address of a member have a room of their own until then: however many strangers there are, members find
//! each other.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use api::{Error, Result};

use super::auth::{Caller, Trust};

/// Connections of strangers. They ask for little and are gone soon: handshakes, tokens, public images.
pub const STRANGERS: usize = 512;
/// Connections of strangers from one address, or of one /64 of IPv6, as those who own one address there own them all. A
/// site behind one address fits, and eight such addresses are needed to fill the room.
pub const STRANGERS_OF_ADDRESS: usize = 64;
/// Connections of trusted clients: each of those who watch events, have a console open or wait for an operation has one.
pub const CLIENTS: usize = 4096;
/// Connections of the same certificate.
pub const OF_CLIENT: usize = 1024;
/// Connections to the unix socket.
pub const LOCAL: usize = 2048;
/// Connections for which there is no seat, and who are told so at the same time; others are closed without a word.
pub const REFUSED: usize = 32;

/// Who is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Guest {
    /// All from one address, or from one /64.
    From(IpAddr),
    /// A certificate, by its fingerprint.
    Certificate(String),
    /// Everybody.
    Anyone,
}

impl Guest {
    fn at(address: SocketAddr) -> Guest {
        Guest::From(match address.ip().to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
            v4 => v4,
        })
    }
}

/// Seats of one sort.
struct Room {
    /// What it is for.
    name: &'static str,
    /// How many seats there are.
    most: usize,
    /// How many of them one guest may have.
    each: usize,
    taken: Mutex<HashMap<Guest, usize>>,
}

impl Room {
    /// With at most `share` seats.
    fn new(name: &'static str, most: usize, each: usize, share: usize) -> Arc<Room> {
        let most = most.min(share);
        Arc::new(Room { name, most, each: each.min(most), taken: Mutex::default() })
    }

    fn enter(self: &Arc<Room>, guest: Guest) -> Result<Seat> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_guest = taken.get(&guest).copied().unwrap_or(0);
        let full = |most: usize, whose: &str| {
            Error::unavailable(format!(
                "Too many connections: {whose} may have {most} at once. Close some, or try later"
            ))
        };
        if of_guest >= self.each {
            return Err(match &guest {
                Guest::From(ip) => full(self.each, &format!("those from {ip} who are not trusted")),
                Guest::Certificate(_) => full(self.each, "a client"),
                Guest::Anyone => full(self.each, self.name),
            });
        }
        if taken.values().sum::<usize>() >= self.most {
            return Err(full(self.most, self.name));
        }
        taken.insert(guest.clone(), of_guest + 1);
        Ok(Seat(Some((self.clone(), guest))))
    }
}

/// A place for a connection; given back when it is dropped.
pub struct Seat(Option<(Arc<Room>, Guest)>);

impl Drop for Seat {
    fn drop(&mut self) {
        let Some((room, guest)) = self.0.take() else { return };
        let mut taken = room.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = taken.get_mut(&guest) {
            *n -= 1;
            if *n == 0 {
                taken.remove(&guest);
            }
        }
    }
}

/// A seat, and what its owner is told instead of being served, if it is only for that.
pub type Seated = (Seat, Option<Error>);

/// All rooms.
pub struct Door {
    strangers: Arc<Room>,
    neighbours: Arc<Room>,
    clients: Arc<Room>,
    local: Arc<Room>,
    refused: Arc<Room>,
}

impl Door {
    /// No more than three quarters of `files` (what this process may have open) are given to connections.
    pub fn new(files: usize) -> Door {
        let share = files / 4;
        Door {
            strangers: Room::new("all clients who are not trusted", STRANGERS, STRANGERS_OF_ADDRESS, share / 2),
            neighbours: Room::new("all at addresses of members", STRANGERS, STRANGERS_OF_ADDRESS, share / 2),
            clients: Room::new("all clients", CLIENTS, OF_CLIENT, share),
            local: Room::new("all who use the unix socket", LOCAL, LOCAL, share),
            refused: Room::new("all who are refused", REFUSED, REFUSED, share),
        }
    }

    /// A seat for who comes from that address and is not known yet; `None` if there isn't even one to be refused in.
    /// `neighbour` if it is the address of a member.
    pub fn knock(&self, address: SocketAddr, neighbour: bool) -> Option<Seated> {
        let room = if neighbour { &self.neighbours } else { &self.strangers };
        self.seat(room, Guest::at(address))
    }

    /// A seat for a local user.
    pub fn local(&self) -> Option<Seated> {
        self.seat(&self.local, Guest::Anyone)
    }

    fn seat(&self, room: &Arc<Room>, guest: Guest) -> Option<Seated> {
        match room.enter(guest) {
            Ok(seat) => Some((seat, None)),
            Err(why) => Some((self.refused.enter(Guest::Anyone).ok()?, Some(why))),
        }
    }

    /// The seat of who has turned out to be that caller, in place of the one from before.
    pub fn recognise(&self, (before, refused): Seated, caller: &Caller) -> Seated {
        match (&caller.trust, &caller.certificate) {
            // What the database needs must not wait for others to leave.
            (Trust::Member, _) => (Seat(None), None),
            (Trust::None, _) | (_, None) => (before, refused),
            _ => match self.clients.enter(Guest::Certificate(caller.name.clone())) {
                Ok(seat) => (seat, None),
                Err(why) => (before, Some(why)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn from(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn caller(trust: Trust, name: &str) -> Caller {
        Caller { trust, name: name.into(), protocol: "tls", address: String::new(), certificate: Some(vec![1]) }
    }

    #[test]
    fn one_address_leaves_seats_for_others_and_strangers_for_the_trusted() {
        let door = Door::new(1 << 20);
        let seats: Vec<Seated> =
            (0..STRANGERS_OF_ADDRESS).map(|_| door.knock(from("192.0.2.1:1"), false).unwrap()).collect();
        assert!(seats.iter().all(|(_, refused)| refused.is_none()));
        let (seat, refused) = door.knock(from("192.0.2.1:2"), false).unwrap();
        assert_eq!(
            refused.clone().unwrap().message,
            "Too many connections: those from 192.0.2.1 who are not trusted may have 64 at once. Close some, or try later"
        );
        assert!(door.knock(from("192.0.2.2:1"), false).unwrap().1.is_none(), "another address");
        // Who turns out to be trusted has a seat among the clients.
        let (_known, refused) = door.recognise((seat, refused), &caller(Trust::Full, "a"));
        assert_eq!(refused, None);
        // Whoever is refused and nobody has only so many seats for that.
        let refused: Vec<_> = (0..REFUSED).map(|_| door.knock(from("192.0.2.1:3"), false).unwrap()).collect();
        assert!(door.knock(from("192.0.2.1:3"), false).is_none());
        drop(refused);
        drop(seats);
        assert!(door.knock(from("192.0.2.1:1"), false).unwrap().1.is_none(), "seats are given back");
        assert!(door.strangers.taken.lock().unwrap().len() <= 1);
    }

    #[test]
    fn those_who_own_a_network_are_one_and_all_together_have_an_end() {
        let door = Door::new(1 << 20);
        let (one, other) = (Guest::at(from("[2001:db8::1]:1")), Guest::at(from("[2001:db8::ffff:2]:1")));
        assert_eq!(one, other);
        assert_ne!(one, Guest::at(from("[2001:db8:0:1::1]:1")));
        assert_eq!(Guest::at(from("[::ffff:192.0.2.1]:1")), Guest::at(from("192.0.2.1:9")));
        let all: Vec<_> = (0..STRANGERS)
            .map(|n| door.knock(from(&format!("198.51.{}.{}:1", n / 250, n % 250)), false).unwrap())
            .collect();
        assert!(all.iter().all(|(_, refused)| refused.is_none()));
        let refused = door.knock(from("192.0.2.9:1"), false).unwrap().1.unwrap();
        assert!(refused.message.contains("all clients who are not trusted may have 512"), "{refused}");
        // Members and the unix socket are not affected, even when nobody can be refused any more.
        let refused: Vec<_> = (0..REFUSED).map_while(|_| door.knock(from("192.0.2.9:1"), false)).collect();
        assert!(door.knock(from("192.0.2.9:1"), false).is_none());
        assert!(door.knock(from("192.0.2.8:1"), true).unwrap().1.is_none());
        drop(refused);
        let (seat, refused) =
            door.recognise(door.knock(from("192.0.2.9:1"), false).unwrap(), &caller(Trust::Member, "m"));
        assert!(refused.is_none() && seat.0.is_none());
        assert!(door.local().unwrap().1.is_none());
    }

    #[test]
    fn a_process_that_may_open_few_files_takes_few_connections() {
        let door = Door::new(100);
        let all: Vec<_> = (0..25).map(|_| door.local().unwrap()).collect();
        assert!(all.iter().all(|(_, refused)| refused.is_none()));
        assert!(door.local().unwrap().1.is_some());
    }
}
