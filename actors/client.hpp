// Troupe for programs: connect to a cluster, submit token ids, stream tokens, cancel. Every call is a typed message to
// the cluster's gateway; the cluster may be on other hosts.
//
//   auto client = troupe::client::connect("127.0.0.1", 7070);
//   auto answer = (*client)->generate({tokens, sampling}, [](const auto& token) { ...; return true; });
//
// Text goes through troupe::model::tokenizer, made from the same model file. Threads: every function from any thread;
// callbacks run on a thread of the client and must not block. Deadlines: generation::timeout bounds every answer.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "actors/service.hpp"
#include "base/result.hpp"

namespace troupe {

struct client_options {
  std::string secret;  // the cluster's, if it has one
  std::chrono::milliseconds connect_timeout{5000};
};

class client {
 public:
  // host:port is where nodes join: the cluster port that `troupe serve` prints. ec::peer_lost: nobody is there, or it
  // has another secret or protocol; ec::no_worker: no gateway is in the cluster.
  static result<std::unique_ptr<client>> connect(const std::string& host, std::uint16_t port,
                                                 const client_options& options = {});
  virtual ~client() = default;

  // Streams one generation and waits for its end. `on_token` returns false to cancel.
  result<actors::generation_end> generate(
      actors::generation what, std::function<bool(const engine::token_output&)> on_token);
  // The asynchronous form, with many generations at once.
  virtual actors::generation_service& service() = 0;
  virtual actors::cluster_status status() const = 0;
};

}  // namespace troupe
