//! Asking servers: http and https, with a deadline, a bound on what is read, and an API key where there is one.
//!
//! In: an address, a body, a deadline. Out: status and body, or one line that says what failed. Connections are not kept: vLLM
//! closes idle ones after five seconds, so that keeping them would bring resets, and an answer takes longer than a handshake.
//! Redirects are not followed, so that a key goes nowhere but where it was to go. A proxy is the environment's
//! (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`).

use serde_json::Value;
use std::sync::LazyLock;
use std::time::Duration;
use ureq::Agent;
use ureq::http::HeaderValue;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// The largest answer that is read, bytes.
const LARGEST: u64 = 256 << 20;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// What every request goes through.
static AGENT: LazyLock<Agent> = LazyLock::new(|| {
    let tls = TlsConfig::builder().root_certs(roots()).build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_idle_connections(0)
        .timeout_connect(Some(CONNECT))
        .user_agent(concat!("errand/", env!("CARGO_PKG_VERSION")));
    config.build().new_agent()
});

/// The machine's own certificates (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others), Mozilla's where it has none.
fn roots() -> RootCerts {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        return RootCerts::WebPki;
    }
    let certificates: Vec<_> = found.certs.iter().map(|found| Certificate::from_der(found).to_owned()).collect();
    RootCerts::new_with_certs(&certificates)
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; null where it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// An API key, sent as `Authorization: Bearer`. It is written nowhere; its variable's name may be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Key {
    variable: String,
    /// Marked as sensitive, so that it is not shown where headers are.
    header: Option<HeaderValue>,
}

impl Key {
    /// What an environment variable holds. Where it is not set, or empty, no key is sent.
    ///
    /// # Errors
    /// One line: it holds what no header can.
    pub fn of_variable(variable: &str) -> Result<Key, String> {
        let value = if variable.is_empty() { None } else { std::env::var_os(variable) };
        Key::new(variable, &value.unwrap_or_default().to_string_lossy())
    }

    /// A key, and the variable that it is said to come from.
    ///
    /// # Errors
    /// As [`Key::of_variable`].
    pub fn new(variable: &str, value: &str) -> Result<Key, String> {
        let value = value.trim();
        let unfit = || format!("the key in the environment variable {variable} holds characters that no HTTP header can");
        let header = (!value.is_empty()).then(|| {
            let visible = value.bytes().all(|byte| byte.is_ascii_graphic());
            let header = HeaderValue::from_str(&format!("Bearer {value}")).ok().filter(|_| visible);
            header.ok_or_else(unfit)
        });
        let mut header = header.transpose()?;
        header.iter_mut().for_each(|header| header.set_sensitive(true));
        Ok(Key { variable: variable.to_string(), header })
    }

    /// What to do about an answer of 401 or 403.
    pub(crate) fn hint(&self) -> String {
        let variable = if self.variable.is_empty() { "OPENAI_API_KEY" } else { &self.variable };
        match &self.header {
            Some(_) => format!("hint: the key in the environment variable {variable} is not the server's"),
            None if self.variable.is_empty() => {
                "hint: name the variable that holds the key by --api-key-env or `generator.api_key_env`".into()
            }
            None => format!(
                "hint: set the environment variable {variable} to the server's API key, or name another one by --api-key-env or `generator.api_key_env`"
            ),
        }
    }
}

/// Sends a request to `http://host:port/...` or `https://...`; `body` makes it a POST.
///
/// # Errors
/// One line: the address, and what failed.
pub(crate) fn ask(url: &str, body: Option<&Value>, key: &Key, deadline: Duration) -> Result<Answer, String> {
    if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(format!("{url}: an address begins with http:// or https://"));
    }
    exchange(url, body, key, deadline).map_err(|error| {
        let reason = match error {
            ureq::Error::Timeout(what) => format!("no answer in time ({what})"),
            ureq::Error::BodyExceedsLimit(bytes) => format!("the answer is larger than {bytes} bytes"),
            other => other.to_string(),
        };
        format!("{url}: {}", reason.replace(['\n', '\r'], " "))
    })
}

fn exchange(url: &str, body: Option<&Value>, key: &Key, deadline: Duration) -> Result<Answer, ureq::Error> {
    let mut response = match body {
        Some(body) => {
            let mut request = AGENT.post(url).header("content-type", "application/json");
            if let Some(header) = &key.header {
                request = request.header("authorization", header);
            }
            request.config().timeout_global(Some(deadline)).build().send(body.to_string())?
        }
        None => {
            let mut request = AGENT.get(url);
            if let Some(header) = &key.header {
                request = request.header("authorization", header);
            }
            request.config().timeout_global(Some(deadline)).build().call()?
        }
    };
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(LARGEST).read_to_vec()?;
    Ok(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// A server that gives one answer, and what it was asked.
    fn once(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = vec![0; 4096];
            let count = stream.read(&mut asked).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&asked[..count]).to_ascii_lowercase()
        });
        (url, asked)
    }

    fn get(url: &str, key: &Key) -> Result<Answer, String> {
        ask(url, None, key, Duration::from_secs(20))
    }

    #[test]
    fn answers_are_read_whole_or_refused() {
        let none = Key::default();
        let read = |text| get(&once(text).0, &none);
        let plain = read("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{\"a\"").unwrap();
        assert_eq!((plain.status, plain.body.len()), (200, 4));
        let chunked = read("HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n6\r\n\": 12}\r\n0\r\n\r\n").unwrap();
        assert_eq!((chunked.status, chunked.json()["a"].as_u64()), (404, Some(12)));
        let away = read("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n").unwrap();
        assert_eq!(away.status, 302, "a key is not taken elsewhere");
        for torn in ["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "", "what?\r\n\r\n"] {
            let (url, _) = once(torn);
            let reason = get(&url, &none).unwrap_err();
            assert!(reason.starts_with(&url) && reason.lines().count() == 1, "{reason}");
        }
        assert!(get("ftp://x/", &none).unwrap_err().contains("http:// or https://"));
    }

    #[test]
    fn a_server_that_says_nothing_is_left_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        let reason = ask(&url, Some(&Value::Null), &Key::default(), Duration::from_millis(50)).unwrap_err();
        assert!(reason.contains("no answer in time"), "{reason}");
        // Nor is one that does not speak TLS waited for.
        let (plain, _) = once("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        assert!(get(&plain.replace("http://", "https://"), &Key::default()).is_err());
    }

    #[test]
    fn a_key_goes_out_as_a_header_and_is_shown_nowhere() {
        let (url, asked) = once("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        let key = Key::new("SOME_KEY", "sk-secret\n").unwrap();
        assert_eq!(get(&url, &key).unwrap().status, 200);
        assert!(asked.join().unwrap().contains("authorization: bearer sk-secret\r\n"));
        assert!(!format!("{key:?}{}", key.hint()).contains("secret") && key.hint().contains("SOME_KEY"));
        let (url, asked) = once("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        get(&url, &Key::of_variable("A_VARIABLE_THAT_NOBODY_SETS").unwrap()).unwrap();
        assert!(!asked.join().unwrap().contains("authorization"));
        let refused = Key::new("SOME_KEY", "two words").unwrap_err();
        assert!(refused.contains("SOME_KEY") && !refused.contains("words"));
    }
}
