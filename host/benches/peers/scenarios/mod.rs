//! Every scenario, by name.

use anyhow::Result;

use crate::bench::Bench;
use crate::outcome::Outcome;

/// The article's run beside uWSGI.
mod article;
/// What deferred calls cost, and how late they are.
mod deferred;
/// A body sent back as it came.
mod echo;
/// `Hello World` from warm and from fresh instances.
mod hello;
/// Many connections of which most are idle.
mod idle;
/// Fresh instances of guests as others write them.
mod ordinary;
/// Servers between a client and another server.
mod proxy;
/// Python applications.
mod python;
/// The first answer after the start.
mod start;
/// A guest that waits in a host call.
mod waiting;

pub struct Scenario {
    pub name: &'static str,
    pub question: &'static str,
    pub run: fn(&Bench) -> Result<Outcome>,
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "hello-warm",
        question: "what a request costs when instances serve without end",
        run: hello::warm,
    },
    Scenario {
        name: "hello-fresh",
        question: "what a request costs when each has an instance of its own",
        run: hello::fresh,
    },
    Scenario {
        name: "ordinary-fresh",
        question: "the same for guests as others write them, in each language",
        run: ordinary::ordinary,
    },
    Scenario {
        name: "program",
        question: "what a program by CGI costs beside a component, an instance each",
        run: hello::program,
    },
    Scenario { name: "echo-10k", question: "a body of 10 KB, there and back", run: echo::small },
    Scenario { name: "echo-10m", question: "a body of 10 MB, there and back", run: echo::large },
    Scenario { name: "proxy-10k", question: "a body of 10 KB, to an upstream and back", run: proxy::small },
    Scenario { name: "proxy-10m", question: "a body of 10 MB, to an upstream and back", run: proxy::large },
    Scenario {
        name: "upstream-python",
        question: "one request by `requests` for each request",
        run: proxy::python,
    },
    Scenario { name: "idle", question: "2,000 connections of which most are idle", run: idle::idle },
    Scenario {
        name: "waiting",
        question: "a guest that waits 50 ms in a host call, on many cores",
        run: waiting::waiting,
    },
    Scenario {
        name: "deferred",
        question: "what scheduling a deferred call adds to a request",
        run: deferred::beside_plain,
    },
    Scenario { name: "article", question: "the article's `ab` run, beside uWSGI", run: article::article },
    Scenario {
        name: "article-python",
        question: "the article's own two files, beside Python servers",
        run: python::article,
    },
    Scenario { name: "hello-python", question: "what a Python application costs", run: python::hello },
    Scenario {
        name: "million",
        question: "a million pending deferred calls",
        run: deferred::million_pending,
    },
    Scenario {
        name: "due",
        question: "ten thousand deferred calls due at once, beside requests at fixed times",
        run: deferred::due_at_once,
    },
    Scenario {
        name: "lateness",
        question: "how late a deferred call is on an idle server",
        run: deferred::lateness_when_idle,
    },
    Scenario { name: "start", question: "the first answer after the start", run: start::first_answer },
];
