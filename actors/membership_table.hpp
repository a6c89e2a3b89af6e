// Who is in the cluster: the directory's core, a plain object. The time is a parameter; no threads.
//
// A node's states:  joining ──► ready ──► draining ──► (left)
//                      └──────────┴──────────┴───────► lost: no heartbeat in time, or its connection broke
// A lost node that heartbeats again is asked to join again; a restarted one has a new incarnation and replaces it.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "actors/messages.hpp"

namespace troupe::actors {

struct membership_options {
  std::string expected_model;  // hex digest that nodes must serve; empty: the first node decides
  std::string expected_model_text;  // the same for people
  // Hex digest of the vocabulary that drafts must have, found out when the first one comes; empty: any will do.
  std::function<std::string()> expected_vocabulary;
  // Told of each node that went without having drained, once.
  std::function<void(role)> on_lost;
  std::chrono::milliseconds lost_after{3000};
  std::chrono::milliseconds forget_after{60'000};
};

class membership_table {
 public:
  using time_point = std::chrono::steady_clock::time_point;
  explicit membership_table(membership_options options) : options_(std::move(options)) {}

  join_reply join(const node_info& info, time_point now);
  // False: the sender is unknown or was lost and must join again.
  bool heard(const heartbeat& h, time_point now);
  void lost(const std::string& name, std::uint64_t start, const std::string& why, time_point now);
  // Marks what is silent as lost and forgets what was lost long ago. True when a state changed.
  bool expire(time_point now);

  membership snapshot(time_point now) const;
  std::uint64_t version() const { return version_; }

 private:
  struct record {
    member m;
    time_point last_heard;
  };
  void count_loss(const record& r) const;
  std::optional<join_reply> refuse_identity(const node_info& info);
  std::optional<join_reply> refuse_draft(const node_info& info);

  const membership_options options_;
  std::uint64_t version_ = 0;
  std::optional<std::string> vocabulary_;  // expected_vocabulary(), once asked for
  std::map<std::string, record> nodes_;    // by name
};

}  // namespace troupe::actors
