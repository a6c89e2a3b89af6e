#include "actors/system.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <caf/io/middleman.hpp>
#include <memory>

#include "actors/interfaces.hpp"

namespace troupe::actors {

system_config::system_config(const network_settings& network,
                             name_resolver::lookup_function names_from)
    : names(std::make_unique<name_resolver>(std::move(names_from))),
      key(network.secret.empty() ? nullptr : std::make_shared<tls_key>(network.secret)) {
  add_message_types<caf::id_block::troupe>();
  load<caf::io::middleman>();
  // `sharing` wakes actors in 15 us where the default polls for 100, and idles at 0 % (platform notes, D2).
  set("scheduler.policy", caf::atom("sharing"));
  // No actor of ours is detached: CAF joins a detached actor's thread only when the last reference to the actor is
  // gone, and a message that the closing middleman never read can hold one, so the process would never end.
  set("scheduler.max-threads", 3);
  set("middleman.workers", 0);
  // Off by default in 0.17.6: without them a stopped peer is never noticed (D3).
  set("middleman.heartbeat-interval", caf::timespan(std::chrono::milliseconds(500)));
  set("middleman.connection-timeout", caf::timespan(std::chrono::milliseconds(4000)));
  // Peers whose identifier differs are refused before any message is decoded. It says nothing of the secret, which
  // connections prove before CAF sends its identifier.
  const auto id = "troupe-" + std::to_string(protocol_version) + (key ? "-tls" : "-open");
  set("middleman.app-identifiers", std::vector<std::string>{id});
}

namespace {

// A host's own name is often mapped to loopback on itself (Debian's 127.0.1.1): others who were told that name would
// reach themselves. Empty: it is not so.
std::string loopback_of(const std::string& name) {
  in_addr number{};
  in6_addr number6{};
  if (name == "localhost" || ::inet_pton(AF_INET, name.c_str(), &number) == 1 ||
      ::inet_pton(AF_INET6, name.c_str(), &number6) == 1)
    return {};
  const auto all = name_resolver::ask_system(name);
  const auto first = std::ranges::find(all, AF_INET, [](const auto& a) { return a.at.ss_family; });
  if (first == all.end()) return {};
  const auto& address = reinterpret_cast<const sockaddr_in&>(first->at).sin_addr;
  if (ntohl(address.s_addr) >> 24 != 127) return {};
  char text[INET_ADDRSTRLEN] = {};
  return ::inet_ntop(AF_INET, &address, text, sizeof text);
}

}  // namespace

result<void> check(const network_settings& network) {
  const bool loopback =
      network.host == "127.0.0.1" || network.host == "localhost" || network.host == "::1";
  if (network.host == "0.0.0.0" || network.host == "::")
    return fail(ec::invalid_argument, "--cluster-host " + network.host +
                                          " is no address that other nodes can connect to: give "
                                          "the address of this host");
  if (const auto where = loopback_of(network.host); !where.empty())
    return fail(ec::invalid_argument, "--cluster-host: " + network.host + " is " + where +
                                          " here: give the address that other hosts reach");
  if (!loopback && network.secret.empty() && !network.insecure)
    return fail(ec::invalid_argument,
                "actors on " + network.host +
                    " can be reached by others: give every node the same --cluster-secret-file, or "
                    "--insecure-cluster on a network that you trust");
  return {};
}

}  // namespace troupe::actors
