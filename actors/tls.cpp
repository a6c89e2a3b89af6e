#include "actors/tls.hpp"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "base/result.hpp"
#include "base/secrets.hpp"

namespace troupe::actors {
namespace {

// First the cipher whose keys never wear out: a connection between nodes lives for weeks.
constexpr const char* ciphers = "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256";
constexpr std::string_view identity = "troupe";

// -- the socket ----------------------------------------------------------------------------------------------------------
// OpenSSL's own would raise SIGPIPE, which is not ours to ignore in a program that uses the client.

int socket_of(BIO* bio) {
  return static_cast<int>(reinterpret_cast<std::intptr_t>(BIO_get_data(bio)));
}

bool later() {
  return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

int send_some(BIO* bio, const char* data, int bytes) {
  BIO_clear_retry_flags(bio);
  const auto n = ::send(socket_of(bio), data, static_cast<std::size_t>(bytes), MSG_NOSIGNAL);
  if (n < 0 && later()) BIO_set_retry_write(bio);
  return static_cast<int>(n);
}

int receive_some(BIO* bio, char* data, int bytes) {
  BIO_clear_retry_flags(bio);
  const auto n = ::recv(socket_of(bio), data, static_cast<std::size_t>(bytes), 0);
  if (n < 0 && later()) BIO_set_retry_read(bio);
  return static_cast<int>(n);
}

long control(BIO*, int command, long, void*) {
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

BIO* make_bio(int socket) {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "troupe socket");
    TROUPE_ASSERT(m != nullptr);
    BIO_meth_set_write(m, send_some);
    BIO_meth_set_read(m, receive_some);
    BIO_meth_set_ctrl(m, control);
    return m;
  }();
  BIO* bio = BIO_new(method);
  TROUPE_ASSERT(bio != nullptr);
  BIO_set_data(bio, reinterpret_cast<void*>(static_cast<std::intptr_t>(socket)));
  BIO_set_init(bio, 1);
  return bio;
}

// -- the key -------------------------------------------------------------------------------------------------------------

// Each connection its own: OpenSSL changes it during the handshake.
SSL_SESSION* session_of_key(SSL* ssl) {
  const auto* key =
      static_cast<const std::array<std::byte, 32>*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
  const unsigned char of_sha256[] = {0x13, 0x03};
  SSL_SESSION* made = SSL_SESSION_new();
  if (made != nullptr &&
      SSL_SESSION_set1_master_key(made, reinterpret_cast<const unsigned char*>(key->data()),
                                  key->size()) == 1 &&
      SSL_SESSION_set_cipher(made, SSL_CIPHER_find(ssl, of_sha256)) == 1 &&
      SSL_SESSION_set_protocol_version(made, TLS1_3_VERSION) == 1)
    return made;
  SSL_SESSION_free(made);
  return nullptr;
}

int offer_key(SSL* ssl, const EVP_MD* wanted, const unsigned char** name, std::size_t* bytes,
              SSL_SESSION** session) {
  *session = nullptr;
  if (wanted != nullptr && EVP_MD_get_type(wanted) != NID_sha256) return 1;
  *name = reinterpret_cast<const unsigned char*>(identity.data());
  *bytes = identity.size();
  *session = session_of_key(ssl);
  return *session != nullptr;
}

int find_key(SSL* ssl, const unsigned char* name, std::size_t bytes, SSL_SESSION** session) {
  *session = nullptr;
  if (std::string_view(reinterpret_cast<const char*>(name), bytes) != identity) return 1;
  *session = session_of_key(ssl);
  return *session != nullptr;
}

}  // namespace

std::string_view to_string(tls_refusal why) {
  switch (why) {
    case tls_refusal::wrong_key:
      return "wrong_key";
    case tls_refusal::malformed:
      return "malformed";
    case tls_refusal::silent:
      return "silent";
    case tls_refusal::overload:
      return "overload";
  }
  return "?";
}

tls_key::tls_key(std::string_view cluster_secret)
    : context_(SSL_CTX_new(TLS_method())),
      key_(keyed_hash(cluster_secret, "troupe connection of actors")) {
  TROUPE_ASSERT(context_ != nullptr);
  TROUPE_ASSERT(SSL_CTX_set_min_proto_version(context_, TLS1_3_VERSION) == 1);
  TROUPE_ASSERT(SSL_CTX_set_max_proto_version(context_, TLS1_3_VERSION) == 1);
  TROUPE_ASSERT(SSL_CTX_set_ciphersuites(context_, ciphers) == 1);
  // Nobody is to be known again: each connection proves the secret itself.
  SSL_CTX_set_session_cache_mode(context_, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context_, 0);
  SSL_CTX_set_mode(context_, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                 SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_app_data(context_, &key_);
  SSL_CTX_set_psk_use_session_callback(context_, offer_key);
  SSL_CTX_set_psk_find_session_callback(context_, find_key);
}

tls_key::~tls_key() {
  SSL_CTX_free(context_);
}

tls_session::tls_session(const tls_key& key, side at, int socket)
    : ssl_(SSL_new(key.context_)), socket_(socket) {
  TROUPE_ASSERT(ssl_ != nullptr);
  BIO* bio = make_bio(socket);
  SSL_set_bio(ssl_, bio, bio);
  if (at == side::accepting) {
    SSL_set_accept_state(ssl_);
    return;
  }
  SSL_set_connect_state(ssl_);
  // No certificate is believed: none is trusted here.
  SSL_set_verify(ssl_, SSL_VERIFY_PEER, nullptr);
}

tls_session::~tls_session() {
  SSL_free(ssl_);
  if (owns_socket_) ::close(socket_);
}

tls_session::state tls_session::handshake() {
  if (state_ != state::waiting) return state_;
  ERR_clear_error();
  const int done = SSL_do_handshake(ssl_);
  const int result = SSL_get_error(ssl_, done);
  const bool unproven = ERR_GET_REASON(ERR_peek_error()) == SSL_R_BINDER_DOES_NOT_VERIFY;
  ERR_clear_error();
  wants_write_ = result == SSL_ERROR_WANT_WRITE;
  if (wants_write_ || result == SSL_ERROR_WANT_READ) return state_;
  // "Reused" is what OpenSSL calls a handshake that a pre-shared key proved.
  const bool proven = done == 1 && SSL_session_reused(ssl_) == 1;
  if (unproven) why_ = tls_refusal::wrong_key;
  return state_ = proven ? state::established : state::refused;
}

bool tls_session::heard() const {
  return BIO_number_read(SSL_get_rbio(ssl_)) > 0;
}

std::optional<std::size_t> tls_session::outcome(int done) {
  const int result = SSL_get_error(ssl_, done);
  ERR_clear_error();
  if (done > 0) return static_cast<std::size_t>(done);
  if (result == SSL_ERROR_WANT_READ || result == SSL_ERROR_WANT_WRITE) return 0;
  return std::nullopt;
}

std::optional<std::size_t> tls_session::read(std::span<std::byte> to) {
  if (to.empty()) return 0;
  ERR_clear_error();
  return outcome(
      SSL_read(ssl_, to.data(), static_cast<int>(std::min<std::size_t>(to.size(), INT_MAX))));
}

std::optional<std::size_t> tls_session::write(std::span<const std::byte> from) {
  if (from.empty()) return 0;
  ERR_clear_error();
  return outcome(
      SSL_write(ssl_, from.data(), static_cast<int>(std::min<std::size_t>(from.size(), INT_MAX))));
}

bool tls_session::holds_more() const {
  return SSL_pending(ssl_) > 0;
}

}  // namespace troupe::actors
