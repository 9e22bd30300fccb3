#include "taskmux/redis/redis_options.hpp"

#include <algorithm>
#include <charconv>
#include <optional>
#include <stdexcept>
#include <string>

#include "redis/net/connection.hpp"
#include "redis/options.hpp"
#include "taskmux/error.hpp"

namespace taskmux {
inline namespace v0 {
namespace {

constexpr auto npos = std::string_view::npos;
constexpr std::uint16_t redis_port = 6379;
constexpr std::uint16_t sentinel_port = 26379;

[[noreturn]] void refuse(const std::string& cause) {
  throw std::invalid_argument{"parse a Redis URL: " + cause};
}

/// Returns the parts before and after the first `separator`; all is before if there is none.
struct Halves {
  std::string_view before;
  std::optional<std::string_view> after;
};

Halves split_at(std::string_view text, std::size_t position) {
  if (position == npos) return {text, std::nullopt};
  return {text.substr(0, position), text.substr(position + 1)};
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string decoded(std::string_view text, const std::string& part) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      result.push_back(text[i]);
      continue;
    }
    const bool complete = i + 2 < text.size();
    const int high = complete ? hex_digit(text[i + 1]) : -1;
    const int low = complete ? hex_digit(text[i + 2]) : -1;
    if (high < 0 || low < 0) refuse("the " + part + " has a '%' without two hex digits (write %25)");
    result.push_back(static_cast<char>(high * 16 + low));
    i += 2;
  }
  return result;
}

bool has_control(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) == 0x7f;
  });
}

template <typename Integer>
std::optional<Integer> whole_number(std::string_view text) {
  Integer number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::uint16_t port_of(std::string_view text) {
  const auto port = whole_number<std::uint16_t>(text);
  if (!port || *port == 0) refuse("the port must be a number from 1 to 65535");
  return *port;
}

int database_of(std::string_view text) {
  const auto database = whole_number<int>(text);
  if (!database || *database < 0) refuse("the database must be a number, 0 or more");
  return *database;
}

/// Splits `text` into host and port; brackets belong to the host.
Halves split_port(std::string_view text) {
  if (!text.starts_with('[')) return split_at(text, text.rfind(':'));
  const auto closing = text.find(']');
  if (closing == npos) refuse("the host has a '[' without ']'");
  const auto rest = text.substr(closing + 1);
  if (rest.empty()) return {text, std::nullopt};
  if (!rest.starts_with(':')) refuse("the host has text between ']' and the port");
  return {text.substr(0, closing + 1), rest.substr(1)};
}

std::string host_of(std::string_view text) {
  if (text.starts_with('[')) {
    const auto inside = text.substr(1, text.size() - 2);
    if (inside.find(':') == npos) refuse("the host in brackets must be an IPv6 address");
    return decoded(inside, "host");
  }
  if (text.find_first_of(":[]@") != npos)
    refuse("the host is not valid (an IPv6 address must stand in brackets)");
  auto host = decoded(text, "host");
  if (host.empty()) refuse("the host is missing");
  if (has_control(host) || host.find(' ') != npos) refuse("the host is not valid");
  return host;
}

RedisAddress address_of(std::string_view text, std::uint16_t default_port) {
  const auto [host, port] = split_port(text);
  return {.host = host_of(host), .port = port ? port_of(*port) : default_port};
}

std::vector<RedisAddress> addresses_of(std::string_view text, std::uint16_t default_port) {
  std::vector<RedisAddress> addresses;
  for (std::optional<std::string_view> rest = text; rest;) {
    const auto [first, others] = split_at(*rest, rest->find(','));
    addresses.push_back(address_of(first, default_port));
    rest = others;
  }
  return addresses;
}

/// The parts of a URL, not decoded yet.
struct Parts {
  std::string_view scheme{};
  std::string user{};
  std::string password{};
  std::string_view hosts{};
  std::string_view path{};  ///< With the leading slash; empty if there is none.
  std::optional<std::string_view> query{};
};

void split_login(std::string_view login, Parts& parts) {
  const auto [user, password] = split_at(login, login.find(':'));
  parts.user = decoded(user, "user");
  parts.password = decoded(password.value_or(""), "password");
}

Parts split_url(std::string_view url) {
  if (url.find('\0') != npos || has_control(url)) refuse("it holds control characters");
  const auto scheme_end = url.find("://");
  if (scheme_end == npos)
    refuse(
        "it has no scheme such as redis://, redis-socket://, redis-sentinel://, "
        "redis-cluster://");
  if (url.find('#') != npos) refuse("it has a '#' (write %23)");
  Parts parts{.scheme = url.substr(0, scheme_end)};
  const auto after_scheme = url.substr(scheme_end + 3);
  const auto [all, query] = split_at(after_scheme, after_scheme.find('?'));
  parts.query = query;
  const auto slash = std::min(all.find('/'), all.size());
  parts.path = all.substr(slash);
  const auto authority = all.substr(0, slash);
  const auto at = authority.rfind('@');
  if (at != npos) split_login(authority.substr(0, at), parts);
  parts.hosts = at == npos ? authority : authority.substr(at + 1);
  return parts;
}

/// Returns the value of the one parameter that this kind of URL has; nullopt if it is missing.
std::optional<std::string> parameter_of(const Parts& parts, std::string_view name) {
  if (!parts.query || parts.query->empty()) return std::nullopt;
  const auto [key, value] = split_at(*parts.query, parts.query->find('='));
  if (key != name || !value || value->find('&') != npos)
    refuse(name.empty() ? std::string{"this kind of URL takes no parameters"}
                        : "the only parameter is " + std::string{name});
  return decoded(*value, std::string{name});
}

int database_in_path(std::string_view path) {
  if (path.size() <= 1) return 0;
  return database_of(path.substr(1));
}

RedisOptions parse_standalone(const Parts& parts) {
  parameter_of(parts, "");
  const auto address = address_of(parts.hosts, redis_port);
  RedisOptions options;
  options.mode = RedisMode::standalone;
  options.host = address.host;
  options.port = address.port;
  options.user = parts.user;
  options.password = parts.password;
  options.database = database_in_path(parts.path);
  return options;
}

RedisOptions parse_socket(const Parts& parts) {
  if (!parts.hosts.empty()) refuse("the path must be absolute (redis-socket:///path)");
  RedisOptions options;
  options.mode = RedisMode::unix_socket;
  options.socket_path = decoded(parts.path, "path");
  if (options.socket_path.size() <= 1) refuse("the path is missing");
  if (has_control(options.socket_path)) refuse("the path holds control characters");
  options.user = parts.user;
  options.password = parts.password;
  if (const auto database = parameter_of(parts, "db")) options.database = database_of(*database);
  return options;
}

RedisOptions parse_sentinel(const Parts& parts) {
  RedisOptions options;
  options.mode = RedisMode::sentinel;
  options.addresses = addresses_of(parts.hosts, sentinel_port);
  options.sentinel_user = parts.user;
  options.sentinel_password = parts.password;
  options.database = database_in_path(parts.path);
  if (auto master = parameter_of(parts, "master")) options.master_name = std::move(*master);
  if (options.master_name.empty()) refuse("the name of the master is empty");
  return options;
}

RedisOptions parse_cluster(const Parts& parts) {
  parameter_of(parts, "");
  if (database_in_path(parts.path) != 0) refuse("a cluster has no database but 0");
  RedisOptions options;
  options.mode = RedisMode::cluster;
  options.addresses = addresses_of(parts.hosts, redis_port);
  options.user = parts.user;
  options.password = parts.password;
  return options;
}

}  // namespace

namespace {

RedisOptions parse(std::string_view url) {
  const auto parts = split_url(url);
  if (parts.scheme == "redis") return parse_standalone(parts);
  if (parts.scheme == "redis-socket") return parse_socket(parts);
  if (parts.scheme == "redis-sentinel") return parse_sentinel(parts);
  if (parts.scheme == "redis-cluster") return parse_cluster(parts);
  if (parts.scheme == "rediss")
    throw Error{Errc::unsupported,
                "parse a Redis URL: TLS (rediss://) is not supported; use redis:// in a trusted "
                "network or through a TLS tunnel"};
  refuse("the scheme is none of redis, redis-socket, redis-sentinel, redis-cluster");
}

/// Returns whether the apparent path of an invalid URL may be the rest of its password.
bool cuts_login(std::string_view url) {
  const auto scheme_end = url.find("://");
  if (scheme_end == npos) return false;
  const auto rest = url.substr(scheme_end + 3);
  const auto end = rest.find_first_of("/?#");
  return end != npos && rest.find('@', end) != npos;
}

}  // namespace

RedisOptions parse_redis_url(std::string_view url) {
  try {
    return parse(url);
  } catch (const std::invalid_argument& fault) {
    if (!cuts_login(url)) throw;
    throw std::invalid_argument{std::string{fault.what()} +
                                "; in a user or password write '/' as %2F, '?' as %3F, '#' as %23, "
                                "'@' as %40, ':' as %3A and '%' as %25"};
  }
}

}  // namespace v0
}  // namespace taskmux

namespace taskmux::redis {
namespace {

[[noreturn]] void refuse_field(const std::string& field_and_cause) {
  throw std::invalid_argument{"Redis options: " + field_and_cause};
}

void check_address(const std::string& host, std::uint16_t port, const std::string& field) {
  if (host.empty()) refuse_field(field + ": the host is empty");
  if (host.find('\0') != std::string::npos) refuse_field(field + ": the host is not valid");
  if (port == 0) refuse_field(field + ": the port is 0");
}

void check_place(const RedisOptions& options) {
  switch (options.mode) {
    case RedisMode::standalone: check_address(options.host, options.port, "host and port"); return;
    case RedisMode::unix_socket:
      if (!options.socket_path.starts_with('/')) refuse_field("socket_path must be absolute");
      if (options.socket_path.size() > 107) refuse_field("socket_path is over 107 bytes long");
      return;
    case RedisMode::sentinel:
      if (options.master_name.empty()) refuse_field("master_name is empty");
      break;
    case RedisMode::cluster:
      if (options.database != 0) refuse_field("database: a cluster has none but 0");
      break;
  }
  if (options.addresses.empty()) refuse_field("addresses is empty");
  for (const auto& [host, port] : options.addresses) check_address(host, port, "addresses");
}

}  // namespace

void check(const RedisOptions& options) {
  static constexpr auto longest = std::chrono::hours{1};
  const auto check_timeout = [](Duration timeout, const char* field) {
    if (timeout <= Duration::zero() || timeout > longest)
      refuse_field(std::string{field} + " must be above 0, and at most 1 h");
  };
  check_place(options);
  check_timeout(options.connect_timeout, "connect_timeout");
  check_timeout(options.command_timeout, "command_timeout");
  check_timeout(options.reconnect_min, "reconnect_min");
  check_timeout(options.reconnect_max, "reconnect_max");
  if (options.reconnect_max < options.reconnect_min)
    refuse_field("reconnect_max is less than reconnect_min");
  if (options.database < 0) refuse_field("database is negative");
  if (options.wait_replicas < 0) refuse_field("wait_replicas is negative");
  if (options.wait_replicas > 0) check_timeout(options.wait_timeout, "wait_timeout");
  if (std::any_of(options.client_name.begin(), options.client_name.end(),
                  [](char c) { return c < '!' || c > '~'; }))
    refuse_field("client_name must be printable ASCII without spaces");
  if (options.key_prefix.empty() || options.key_prefix.find_first_of("{}") != std::string::npos)
    refuse_field("key_prefix must not be empty, and must hold no braces");
}

std::string describe(const RedisOptions& options) {
  std::string places;
  for (const RedisAddress& address : options.addresses) {
    if (!places.empty()) places += ", ";
    places += Endpoint{.host = address.host, .port = address.port}.to_string();
  }
  switch (options.mode) {
    case RedisMode::unix_socket: return "Redis at " + options.socket_path;
    case RedisMode::sentinel:
      return "Redis master \"" + options.master_name + "\" by the Sentinels at " + places;
    case RedisMode::cluster: return "Redis Cluster at " + places;
    case RedisMode::standalone: break;
  }
  return "Redis at " + Endpoint{.host = options.host, .port = options.port}.to_string();
}

}  // namespace taskmux::redis
