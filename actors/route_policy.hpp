// Who decodes a request and who reads its prompt: the router's core, a plain object.
//
// Decode goes to the ready node with the least work ahead. The prompt is read elsewhere only when the predicted time
// to first token there is not longer: waiting prompt tokens and this prompt over the measured speed, plus the transfer
// over the measured link. A prompt of less than two blocks stays: its transfer costs more than its computation.
#pragma once

#include <optional>
#include <string>

#include "actors/messages.hpp"

namespace troupe::actors {

struct route_decision {
  route_plan plan;
  std::string reason;  // label of troupe_route_decisions_total
};

class route_policy {
 public:
  void update(const membership& m);
  route_decision decide(const route_request& r);

 private:
  // What this router sent to a node since the node's last report, so that a burst does not all go to one.
  struct candidate {
    member m;
    std::uint64_t sent_tokens = 0;
    std::uint32_t sent_requests = 0;
  };
  candidate* best_decode(const route_request& r);
  candidate* best_prefill(const route_request& r);

  std::vector<candidate> nodes_;
  std::uint64_t turn_ = 0;  // breaks ties in turn
};

}  // namespace troupe::actors
