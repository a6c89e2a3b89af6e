// A connection that is let in by the cluster's secret and by nothing else: TLS 1.3 over a socket, with a pre-shared key made
// of the secret (no certificates). Each end proves that it has the key before the other sends or believes a byte; traffic
// keys are fresh, so a secret that is lost later opens no recorded connection.
//
// Errors are read from the operation's own result, and OpenSSL's queue of the thread is empty before and after each:
// one connection's failure is never taken for another's.
//
// Threads: a tls_key any; a tls_session one at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

struct ssl_st;
struct ssl_ctx_st;

namespace troupe::actors {

// Why a connection was not let in.
enum class tls_refusal : std::uint8_t {
  wrong_key,  // it lacks the cluster's secret
  malformed,  // it speaks something else
  silent,     // it did not end its handshake in time
  overload    // it gave way to younger ones
};
inline constexpr tls_refusal all_tls_refusals[] = {tls_refusal::wrong_key, tls_refusal::malformed,
                                                   tls_refusal::silent, tls_refusal::overload};
std::string_view to_string(tls_refusal why);

// What the members of a cluster have in common.
class tls_key {
 public:
  explicit tls_key(std::string_view cluster_secret);
  tls_key(const tls_key&) = delete;
  tls_key& operator=(const tls_key&) = delete;
  ~tls_key();

 private:
  friend class tls_session;
  ssl_ctx_st* context_;
  std::array<std::byte, 32> key_;
};

class tls_session {
 public:
  enum class side { connecting, accepting };
  enum class state { waiting, established, refused };

  // `socket` is connected, does not block, and is closed with this.
  tls_session(const tls_key& key, side at, int socket);
  tls_session(const tls_session&) = delete;
  tls_session& operator=(const tls_session&) = delete;
  ~tls_session();

  // To be called again whenever the socket can be read (or written, if wants_write()), until it does not wait any more.
  state handshake();
  bool wants_write() const { return wants_write_; }
  tls_refusal why() const { return why_; }  // REQUIRES: refused
  bool heard() const;                       // a byte at least

  // Of an established one: bytes, 0: none for now. Nothing: the connection is over.
  std::optional<std::size_t> read(std::span<std::byte> to);
  std::optional<std::size_t> write(std::span<const std::byte> from);
  // read() has more although the socket may have not.
  bool holds_more() const;

  int socket() const { return socket_; }
  void keep_socket() { owns_socket_ = false; }  // another one closes it, after this object

 private:
  std::optional<std::size_t> outcome(int done);

  ssl_st* ssl_;
  const int socket_;
  bool owns_socket_ = true;
  bool wants_write_ = false;
  state state_ = state::waiting;
  tls_refusal why_ = tls_refusal::malformed;
};

}  // namespace troupe::actors
