//! What is promised of the whole server, seen from outside: the real program,
//! real sockets, real guests. One binary; a module for each kind of promise.
#![allow(unreachable_pub, reason = "a program has no outside")]
#![allow(clippy::disallowed_methods, reason = "it is started by what the environment names")]
#![allow(clippy::too_many_lines, reason = "tables of cases are long")]

mod support;

/// Requests that go well: both versions of WASI, both of HTTP, bodies, trailers,
/// Unix sockets, what a guest learns of its client.
mod requests;

/// Cores and instances: how many calls at once, who waits, who is isolated from
/// whom.
mod cores;

/// Deferred calls: when they run, how often, what may be cancelled, every limit.
mod deferred;

/// Deferred calls in a store: what becomes of them when servers are killed, stopped and share it.
mod durable;

/// Servers with such a store that are killed two hundred times.
mod kills;

/// Guests that take too long, before, in and after the response.
mod deadlines;

/// Guests that trap, answer nothing, or want too much memory.
mod failures;

/// Memory: what one instance may make the server hold, what all may take together, and
/// what they give back.
mod memory;

/// Good and bad clients and guests at once, for some time.
mod soak;

/// Clients that send too much, stop in the middle, or leave.
mod clients;

/// Clients that want everything: connections, cores, the figures.
mod shares;

/// Uploads that nobody reads: the answer reaches the client all the same.
mod uploads;

/// Requests that only their bytes show to be malformed, or to end early.
mod malformed;

/// A table of heads and bodies, as we, nginx and a server of Python read them.
mod readings;

/// A real nginx in front.
mod proxied;

/// What guests may reach of the network, and what they learn when they may not.
mod outbound;

/// A table of destinations, granted and refused, as they arrive.
mod egress;

/// Requests of guests and their responses, by one table of cases for both versions of WASI and of HTTP.
mod exchanges;

/// What is counted and written of outbound requests and connections.
mod counted;

/// Sockets: what they may connect to, their bounds, and what becomes of them.
mod sockets;

/// TLS over the sockets of Python applications: what is believed, and what becomes of connections.
mod tls;

/// Key-value stores, on each kind of place, and what becomes of guests when one is not there.
mod keyvalue;

/// Values that guests get by name, and secrets, which nobody else does.
mod settings;

/// Connections that send slowly, or what is no request.
mod slow;

/// Clients that take their response slowly, or not at all.
mod readers;

/// Stopping, and what a server does when the system gives it no more.
mod shutdown;

/// SIGHUP: another guest, without dropping a request.
mod swap;

/// What a service manager is told.
mod managed;

/// What the server executes or reads as its own, which no guest, no build and no other user
/// changes.
mod guarded;

/// Loading a guest: what may take its time or memory, or never come.
mod loading;

/// Programs that serve by CGI.
mod programs;

/// The same application in each language, and what a new user does first.
mod languages;

/// Folders with a script that builds a guest: built, served, and swapped when they change.
mod projects;

/// Python applications: the article's two, every part of WSGI, timers, Flask, and
/// how a file becomes the component that is served.
mod python;

/// Wrong options and files that will not do.
mod startup;

/// What is told of a file without serving it.
mod inspect;

/// Files: how many a guest may have open, long listings, and other calls that take long.
mod files;

/// The log and the figures.
mod shown;

/// What guests and clients can do to the log, and what they cannot.
mod log;

/// What the documents are to be: short, true about options, with links that lead somewhere.
mod documents;

/// The code of the host as the map and the floors have it.
mod house;
/// What users install: a wheel, a package of Debian's, an image.
mod packages;

/// What is in the repository: guests that match their source, the map of the host.
mod repository;
