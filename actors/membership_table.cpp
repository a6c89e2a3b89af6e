#include "actors/membership_table.hpp"

#include "actors/wire.hpp"

namespace troupe::actors {
namespace {

using std::chrono::milliseconds;

std::string about(const node_info& n) {
  return n.name + " (" + n.identity_text + ")";
}

}  // namespace

// A draft's model is another one; what its token ids mean must be the same.
std::optional<join_reply> membership_table::refuse_draft(const node_info& info) {
  if (!vocabulary_)
    vocabulary_ = options_.expected_vocabulary ? options_.expected_vocabulary() : std::string();
  if (vocabulary_->empty() || *vocabulary_ == info.vocabulary) return std::nullopt;
  return join_reply{ec::identity_mismatch,
                    "this cluster serves " + options_.expected_model_text + ", vocabulary " +
                        vocabulary_->substr(0, 12) + ", but draft " + about(info) +
                        " has another vocabulary, " + info.vocabulary.substr(0, 12) +
                        ": a draft must be a model of the same tokenizer"};
}

std::optional<join_reply> membership_table::refuse_identity(const node_info& info) {
  if (info.protocol != protocol_version)
    return join_reply{ec::identity_mismatch, "node " + info.name + " speaks protocol " +
                                                 std::to_string(info.protocol) + ", this cluster " +
                                                 std::to_string(protocol_version) +
                                                 ": run the same build on every node"};
  if (info.kind == role::gateway) return std::nullopt;
  if (info.kind == role::draft) return refuse_draft(info);
  if (!options_.expected_model.empty() && info.model_digest != options_.expected_model)
    return join_reply{ec::identity_mismatch, "this cluster serves " + options_.expected_model_text +
                                                 ", but node " + about(info) +
                                                 " does not: start it with the cluster's model"};
  for (const auto& [name, r] : nodes_) {
    const auto& other = r.m.info;
    if (name == info.name || other.kind == role::gateway || other.kind == role::draft ||
        r.m.state == node_state::lost)
      continue;
    if (other.kv_identity != info.kv_identity)
      return join_reply{ec::identity_mismatch,
                        "KV blocks of node " + about(info) + " cannot be exchanged with node " +
                            about(other) + ": use the same model, KV type and block size"};
  }
  return std::nullopt;
}

void membership_table::count_loss(const record& r) const {
  if (options_.on_lost && r.m.info.kind != role::gateway) options_.on_lost(r.m.info.kind);
}

join_reply membership_table::join(const node_info& info, time_point now) {
  if (auto refusal = refuse_identity(info)) return *refusal;
  auto it = nodes_.find(info.name);
  if (it != nodes_.end() && it->second.m.info.start != info.start &&
      it->second.m.state != node_state::lost && now - it->second.last_heard < options_.lost_after &&
      (it->second.m.info.host != info.host || it->second.m.info.port != info.port))
    return {ec::invalid_argument,
            "a node named " + info.name + " is alive at " + it->second.m.info.host + ":" +
                std::to_string(it->second.m.info.port) + ": choose another --name"};
  // A restarted node may be back before the end of its predecessor is noticed.
  if (it != nodes_.end() && it->second.m.info.start != info.start &&
      (it->second.m.state == node_state::joining || it->second.m.state == node_state::ready))
    count_loss(it->second);
  record r;
  r.m.info = info;
  r.last_heard = now;
  nodes_[info.name] = std::move(r);
  ++version_;
  return {};
}

bool membership_table::heard(const heartbeat& h, time_point now) {
  auto it = nodes_.find(h.name);
  if (it == nodes_.end() || it->second.m.info.start != h.start ||
      it->second.m.state == node_state::lost)
    return false;
  auto& r = it->second;
  if (r.m.state != h.state) ++version_;
  r.m.state = h.state;
  r.m.note = h.note;
  r.m.load = h.load;
  r.last_heard = now;
  return true;
}

void membership_table::lost(const std::string& name, std::uint64_t start, const std::string& why,
                            time_point now) {
  auto it = nodes_.find(name);
  if (it == nodes_.end() || it->second.m.info.start != start ||
      it->second.m.state == node_state::lost)
    return;
  if (it->second.m.state == node_state::draining) {  // it left as announced
    nodes_.erase(it);
  } else {
    count_loss(it->second);
    it->second.m.state = node_state::lost;
    it->second.m.note = why;
    it->second.last_heard = now;
  }
  ++version_;
}

bool membership_table::expire(time_point now) {
  const auto before = version_;
  for (auto it = nodes_.begin(); it != nodes_.end();) {
    auto& r = it->second;
    const auto silent = now - r.last_heard;
    if (r.m.state == node_state::lost) {
      if (silent < options_.forget_after) {
        ++it;
        continue;
      }
      it = nodes_.erase(it);
      ++version_;
      continue;
    }
    if (silent >= options_.lost_after) {
      count_loss(r);
      r.m.state = node_state::lost;
      r.m.note = "no heartbeat";
      r.last_heard = now;
      ++version_;
    }
    ++it;
  }
  return version_ != before;
}

membership membership_table::snapshot(time_point now) const {
  membership m;
  m.version = version_;
  for (const auto& [name, r] : nodes_) {
    m.members.push_back(r.m);
    m.members.back().heartbeat_age_ms = static_cast<std::uint64_t>(
        std::chrono::duration_cast<milliseconds>(now - r.last_heard).count());
  }
  return m;
}

}  // namespace troupe::actors
