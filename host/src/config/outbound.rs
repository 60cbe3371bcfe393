//! The options of what guests may reach of the network.

use std::path::PathBuf;

use clap::Args;

use super::values::Seconds;
use crate::outbound::grant::Grant;
use crate::outbound::grants::Grants;
use crate::outbound::identity::Named;
use crate::outbound::{Limits, Times};

#[derive(Args, Debug)]
pub(super) struct OutboundOptions {
    /// Let the guest connect to a destination: https://api.example.com, *://*.example.com:443,
    /// postgres://10.0.0.0/8, *://[fd00::/8]:8000-8080. Repeatable.
    #[arg(long, value_name = "SCHEME://HOST[:PORT]", help_heading = "What guests may reach")]
    allow_outbound: Vec<Grant>,

    /// Names that are granted may have private and loopback addresses.
    #[arg(long, requires = "allow_outbound", help_heading = "What guests may reach")]
    allow_outbound_private: bool,

    /// Certificate authorities (PEM) to believe beside those of the system. Repeatable.
    #[arg(long, value_name = "FILE", help_heading = "What guests may reach")]
    pub(super) ca_file: Vec<PathBuf>,

    /// Show a certificate (PEM) to a destination that asks for one, of requests by `wasi:http`:
    /// https://api.example.com=cert.pem,key.pem. Of those that are for a destination the first;
    /// it grants nothing. Repeatable.
    #[arg(
        long,
        value_name = "DESTINATION=CERTIFICATE_FILE,KEY_FILE",
        requires = "allow_outbound",
        help_heading = "What guests may reach"
    )]
    pub(super) client_certificate: Vec<Named>,

    /// Outbound requests of all guests that are under way at once; one more is an error for
    /// the guest.
    #[arg(long, value_name = "N", default_value_t = 1024, help_heading = "What guests may reach")]
    outbound_requests: usize,

    /// The same of one instance.
    #[arg(long, value_name = "N", default_value_t = 32, help_heading = "What guests may reach")]
    outbound_per_instance: usize,

    /// How long a guest may wait for a connection, with the lookup of its name.
    #[arg(long, value_name = "SECONDS", default_value = "10", help_heading = "What guests may reach")]
    outbound_connect_timeout: Seconds,

    /// And then for the head of the response.
    #[arg(long, value_name = "SECONDS", default_value = "60", help_heading = "What guests may reach")]
    outbound_response_timeout: Seconds,

    /// And for each further piece of it.
    #[arg(long, value_name = "SECONDS", default_value = "60", help_heading = "What guests may reach")]
    outbound_read_timeout: Seconds,
}

impl OutboundOptions {
    pub(super) fn grants(&self) -> Grants {
        Grants { grants: self.allow_outbound.clone(), private: self.allow_outbound_private }
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            requests_max: self.outbound_requests,
            requests_of_one_max: self.outbound_per_instance,
            times: Times {
                connect: self.outbound_connect_timeout.0,
                first_byte: self.outbound_response_timeout.0,
                between_bytes: self.outbound_read_timeout.0,
            },
        }
    }
}
