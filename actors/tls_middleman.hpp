// CAF's connections between processes behind a secret. CAF's middleman asks for sockets in two places only, to connect and to
// listen, and reads and writes them through a policy; here it is given authenticated TLS connections instead:
//
//   connecting   connector --- handshake ---> tls_lobby --- taken by ---> tls_middleman: a scribe (CAF's word for a
//                                                                         connection) of it
//   listening    tls_door (its thread: accept, handshake) --- taken by --> a doorman of CAF's event loop: a scribe of it
//
// So CAF never sees a byte of, nor sends one to, somebody who has not the secret, and handshakes keep neither its event
// loop nor its actors waiting. CAF's own TLS module does both in the event loop and leaves a failed connection's errors in
// OpenSSL's queue, where the next ones find them (docs/security.md).
#pragma once

#include <caf/actor_system.hpp>
#include <caf/io/middleman_actor.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "actors/tls.hpp"

namespace troupe::actors {

// Connections that are established and wait for CAF to ask for them by host and port. Any thread.
class tls_lobby {
 public:
  using endpoint = std::pair<std::string, std::uint16_t>;
  void put(const endpoint& at, std::unique_ptr<tls_session> session);
  std::unique_ptr<tls_session> take(const endpoint& at);  // null: there is none

 private:
  std::mutex mutex_;
  std::map<endpoint, std::unique_ptr<tls_session>> waiting_;
};

// Ends with its last handle.
caf::io::middleman_actor make_tls_middleman(caf::actor_system& system,
                                            std::shared_ptr<const tls_key> key,
                                            std::shared_ptr<tls_lobby> lobby);

}  // namespace troupe::actors
