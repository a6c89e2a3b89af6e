// Who decodes a request and who reads its prompt: the router's core, a plain object. The time is a parameter.
//
// For each decode node the ways to a first token are compared: it reads the prompt itself, with what it has of it or with
// what a store has, or a prefill node does, with what that one or a store has. The predicted time of a way is the prompt
// tokens ahead and the uncached rest over the reader's speed, plus bytes over the link. The decode node is the one whose
// best way is fastest; among those about as fast the one with the fewest requests, and none is given more than about
// twice its share for the sake of its cache.
//
// A prompt is read elsewhere only when that is predicted to be about as fast: what is left of less than two blocks stays.
//
// Speeds are what nodes measured; a node without work measures nothing, and what it measured last may have been an
// unlucky moment. So a measurement ages towards what its peers measure now, and a node that once was slow is tried again.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "actors/messages.hpp"
#include "actors/prefix_map.hpp"

namespace troupe::actors {

struct route_decision {
  route_plan plan;
  std::string reason;  // label of troupe_route_decisions_total
};

class route_policy {
 public:
  using time_point = std::chrono::steady_clock::time_point;
  void update(const membership& m, time_point now = {});
  route_decision decide(const route_request& r, time_point now = {});

  // What nodes hold; their answers go in here.
  prefix_map& prefixes() { return prefixes_; }
  const prefix_map& prefixes() const { return prefixes_; }

 private:
  struct candidate {
    member m;
    // What this router sent to a node since the node's last report, so that a burst does not all go to one.
    std::uint64_t sent_tokens = 0;
    std::uint32_t sent_requests = 0;
    double speed = 0;          // prompt tokens a second, as of the last update
    std::size_t identity = 0;  // of its KV, in identities_
    std::uint32_t cached = 0;  // tokens of the prompt under decision that it has
    std::uint32_t requests() const {
      return m.load.running + m.load.waiting + m.load.waiting_remote + sent_requests;
    }
  };
  struct measurement {
    double speed = 0, best = 0;  // best: of all that this node measured
    time_point taken{};
  };
  // Reading a prompt at a node.
  struct reading {
    double seconds = 0, computing = 0;
    std::uint32_t computed = 0, cached = 0;
    bool from_store = false;
  };
  struct way {
    double seconds = 0, local_seconds = 0, remote_seconds = 0;
    reading read;
    candidate* decode = nullptr;
    candidate* prefill = nullptr;  // null: decode reads it
    const char* reason = "";
  };
  struct known_prefix {  // of the request under decision
    std::uint32_t in_store = 0;
    std::vector<std::vector<std::uint64_t>> keys;  // by KV identity; empty without its tokens
  };

  known_prefix look_up(const route_request& r);
  void set_speeds(time_point now);
  reading read_at(const candidate& c, const route_request& r, const known_prefix& known) const;
  candidate* best_prefill(const route_request& r, const known_prefix& known);
  way best_way(candidate& decode, candidate* prefill, const route_request& r,
               const known_prefix& known) const;
  std::optional<way> choose(const route_request& r, const known_prefix& known);
  route_decision refuse(const route_request& r) const;

  std::vector<candidate> nodes_;
  std::map<std::uint64_t, std::size_t> place_;  // in nodes_, by incarnation
  std::vector<std::string> identities_;
  std::map<std::uint64_t, measurement> measured_;  // by incarnation
  prefix_map prefixes_;
  std::uint32_t longest_lost_ = 0;  // request that a decode node held which is lost
  std::uint64_t turn_ = 0;          // breaks ties in turn
};

}  // namespace troupe::actors
