//! A small web server on a machine of a lab, with and without TLS.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::tls::Identity;
use lab::{Machine, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// What it answers at a path.
#[derive(Clone, Default)]
pub struct Page {
    /// Headers beside the length.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Bytes that are promised after the body and never come.
    pub missing: usize,
}

/// The pages by path; one with a header `Location` sends there.
pub type Pages = Arc<Mutex<HashMap<String, Page>>>;

/// Serves pages on that machine until the test ends: plainly on port 8080, with TLS on port 8444.
pub fn serve(machine: &Machine, identity: &Identity) -> Result<Pages> {
    let pages = Pages::default();
    let tls = client::tls::server_config(identity)?;
    for (port, tls) in [(8080, None), (8444, Some(tls))] {
        let (listener, pages) = (listen(machine, port)?, pages.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (pages, tls) = (pages.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    None => answer(stream, &pages),
                    Some(tls) => answer(rustls::StreamOwned::new(rustls::ServerConnection::new(tls)?, stream), &pages),
                });
            }
        });
    }
    Ok(pages)
}

/// Listens in the machine's network: only a thread goes there, and the socket stays there.
fn listen(machine: &Machine, port: u16) -> Result<TcpListener> {
    let network = std::fs::File::open(format!("/proc/{}/ns/net", machine.init()?))?;
    let bound = std::thread::spawn(move || -> std::io::Result<TcpListener> {
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&network), Some(LinkNameSpaceType::Network))?;
        TcpListener::bind(("0.0.0.0", port))
    });
    Ok(bound.join().map_err(|_| "the thread that listens crashed")??)
}

trait Stream: Read + Write {}
impl Stream for TcpStream {}
impl<S: Read + Write> Stream for rustls::StreamOwned<rustls::ServerConnection, S> {}

fn answer(mut stream: impl Stream, pages: &Pages) -> Result<()> {
    let mut reader = BufReader::new(&mut stream);
    let (mut first, mut line) = (String::new(), String::new());
    reader.read_line(&mut first)?;
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let page = pages.lock().unwrap().get(path).cloned();
    let status = match &page {
        None => "404 Not Found",
        Some(page) if page.headers.iter().any(|(name, _)| name == "Location") => "302 Found",
        Some(_) => "200 OK",
    };
    let page = page.unwrap_or_default();
    let mut head =
        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n", page.body.len() + page.missing);
    for (name, value) in &page.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    if method != "HEAD" {
        stream.write_all(&page.body)?;
        stream.flush()?;
        if page.missing > 0 {
            std::thread::sleep(Duration::from_secs(100));
        }
    }
    stream.flush()?;
    Ok(())
}

/// A proxy on that machine, at port 3128, until the test ends: it takes the web server of [`serve`] for any host. What it
/// was asked for, line by line.
pub fn proxy(machine: &Machine) -> Result<Arc<Mutex<Vec<String>>>> {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (listener, seen) = (listen(machine, 3128)?, asked.clone());
    let network = std::fs::File::open(format!("/proc/{}/ns/net", machine.init()?))?;
    // The threads that this one starts are in the machine's network, too.
    std::thread::spawn(move || -> std::io::Result<()> {
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&network), Some(LinkNameSpaceType::Network))?;
        for stream in listener.incoming().flatten() {
            let seen = seen.clone();
            std::thread::spawn(move || pass_on(stream, &seen));
        }
        Ok(())
    });
    Ok(asked)
}

fn pass_on(mut from: TcpStream, asked: &Mutex<Vec<String>>) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head)?;
    let (first, rest) = head.split_once("\r\n").ok_or("no request")?;
    asked.lock().unwrap().push(first.to_owned());
    let to = if first.starts_with("CONNECT ") {
        from.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
        TcpStream::connect("127.0.0.1:8444")?
    } else {
        let words: Vec<&str> = first.split(' ').collect();
        let path = words[1].splitn(4, '/').last().unwrap_or_default();
        let mut to = TcpStream::connect("127.0.0.1:8080")?;
        to.write_all(format!("{} /{path} {}\r\n{rest}", words[0], words[2]).as_bytes())?;
        to
    };
    let (mut back, mut forth) = ((to.try_clone()?, from.try_clone()?), (from, to));
    std::thread::spawn(move || std::io::copy(&mut forth.0, &mut forth.1));
    std::io::copy(&mut back.0, &mut back.1)?;
    back.1.shutdown(std::net::Shutdown::Both)?;
    Ok(())
}
