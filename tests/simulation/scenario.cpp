#include "tests/simulation/scenario.hpp"

#include <algorithm>
#include <sstream>

namespace troupe::simulation {
namespace {

using fabric_faults = transport::sim_faults;

fabric_faults bad_weather(random& r) {
  fabric_faults f;
  // One or two things at once, each often enough to matter.
  for (int i = 0; i < 2; ++i) {
    const double p = 0.1 + 0.6 * r.fraction();
    switch (r.below(8)) {
      case 0:
        f.drop = p;
        break;
      case 1:
        f.corrupt = p;
        break;
      case 2:
        f.truncate = p;
        break;
      case 3:
        f.fail = p;
        break;
      case 4:
        f.connect_fail = p;
        break;
      case 5:
        f.refuse_memory = p;
        break;
      case 6:
        f.late = p;
        f.late_factor = 5000;
        break;
      default:
        f.gigabytes_per_second = 1e-5 * static_cast<double>(1 + r.below(20));
        break;
    }
  }
  return f;
}

fault make_fault(random& r, const scenario& s, milliseconds span) {
  fault f;
  f.kind = static_cast<fault_kind>(r.below(num_fault_kinds));
  f.at = milliseconds(r.below(static_cast<std::uint64_t>(span.count())));
  const auto processes = 1 + s.num_nodes();
  f.a = static_cast<std::uint32_t>(r.below(processes));
  f.b = static_cast<std::uint32_t>((f.a + 1 + r.below(processes - 1)) % processes);
  const bool of_a_node = f.kind == fault_kind::drain || f.kind == fault_kind::lose_device ||
                         f.kind == fault_kind::slow_device || f.kind == fault_kind::cut_fabric;
  if (of_a_node) f.a = 1 + static_cast<std::uint32_t>(r.below(s.num_nodes()));
  if (f.kind == fault_kind::cut_fabric)
    f.b = 1 + static_cast<std::uint32_t>(r.below(s.num_nodes()));
  if (f.kind == fault_kind::kill_client) f.a = static_cast<std::uint32_t>(r.below(s.num_clients));
  // Short ones pass unnoticed, middling ones are late, long ones look like death.
  const std::uint64_t lengths[] = {30, 300, 1500, 4500, 9000, 30'000};
  f.duration = milliseconds(1 + r.below(lengths[r.below(f.kind == fault_kind::pause ? 6 : 5)]));
  return f;
}

// See emphasis::pulls.
void dwell_on_pulls(random& r, scenario& s) {
  s.num_prefill = r.between(1, 2);
  s.device = device_kind::hashes;
  s.prefix_caching = r.below(4) == 0;
  s.num_blocks = r.between(20, 40);
  s.fabric.gigabytes_per_second = 1e-5 * static_cast<double>(1 + r.below(10));
  s.network.duplicate = r.below(2) == 0 ? 0.3 : 0;
  for (auto& q : s.requests) {
    q.prompt_tokens = r.between(16, 36);
    q.cancel_after = milliseconds(r.below(3) == 0 ? 5 + r.below(60) : 0);
  }
  s.faults.clear();
  const auto faults = r.between(1, 5);
  for (std::uint32_t i = 0; i < faults; ++i) {
    fault f;
    const fault_kind kinds[] = {
        fault_kind::vanish,  fault_kind::kill,  fault_kind::cut_fabric, fault_kind::cut,
        fault_kind::weather, fault_kind::pause, fault_kind::cut_both,   fault_kind::slow_device};
    f.kind = kinds[r.below(8)];
    const auto& during = s.requests[r.below(s.requests.size())];
    f.at = during.at + milliseconds(r.below(60));
    f.duration = milliseconds(1 + r.below(r.below(2) == 0 ? 100 : 2000));
    f.a = 1 + s.num_decode + static_cast<std::uint32_t>(r.below(s.num_prefill));
    f.b = 1 + static_cast<std::uint32_t>(r.below(s.num_decode));
    if (f.kind == fault_kind::cut_fabric || r.below(3) == 0) std::swap(f.a, f.b);
    s.faults.push_back(f);
  }
}

// See emphasis::stores. By a chance of its own, so that schedules without stores stay what they are.
void dwell_on_stores(random& r, scenario& s) {
  s.num_stores = r.between(1, 2);
  s.store_blocks = r.between(6, 40);
  s.num_blocks = r.between(14, 24);
  s.fabric.gigabytes_per_second = 1e-5 * static_cast<double>(1 + r.below(20));
  s.network.duplicate = r.below(3) == 0 ? 0.3 : 0;
  const auto count = s.requests.size();
  for (std::size_t i = 0; i < count; ++i) {
    auto& q = s.requests[i];
    q.prompt_tokens = r.between(10, 36);
    auto again = q;
    again.at += milliseconds(r.below(4000));
    again.prompt_tokens = r.between(10, 36);
    s.requests.push_back(again);
  }
  std::sort(s.requests.begin(), s.requests.end(),
            [](const request& a, const request& b) { return a.at < b.at; });
  if (s.faults.empty()) return;
  if (r.below(2) == 0) s.faults.clear();
  const auto faults = r.between(1, 5);
  for (std::uint32_t i = 0; i < faults; ++i) {
    fault f;
    const fault_kind kinds[] = {
        fault_kind::kill,        fault_kind::vanish,   fault_kind::pause,   fault_kind::cut,
        fault_kind::cut_fabric,  fault_kind::cut_both, fault_kind::weather, fault_kind::drain,
        fault_kind::spoil_store, fault_kind::partition};
    f.kind = kinds[r.below(10)];
    const auto& during = s.requests[r.below(s.requests.size())];
    f.at = during.at + milliseconds(r.below(80));
    f.duration = milliseconds(1 + r.below(r.below(2) == 0 ? 100 : 3000));
    f.a = s.num_engines() + 1 + static_cast<std::uint32_t>(r.below(s.num_stores));
    f.b = 1 + static_cast<std::uint32_t>(r.below(s.num_engines()));
    const bool other_way = f.kind != fault_kind::spoil_store && r.below(2) == 0;
    if (other_way) std::swap(f.a, f.b);
    s.faults.push_back(f);
  }
}

// See emphasis::drafts. By a chance of its own, likewise.
void dwell_on_drafts(random& r, scenario& s, bool with_faults) {
  auto& d = s.drafts;
  d.num_drafts = r.between(1, 2);
  d.num_blocks = with_faults ? r.between(6, 40) : 40;
  const std::uint32_t shares[] = {0, 15, 40, 80};
  d.other_percent = shares[r.below(4)];
  if (s.device == device_kind::hashes)
    s.device = device_kind::peaked_hashes;
  else
    d.other_percent = 0;
  d.measured = s.device == device_kind::peaked_hashes && r.below(3) == 0;
  d.trial = d.measured && r.below(2) == 0;
  d.from_text = r.below(2) == 0;
  d.history = d.from_text && r.below(2) == 0;
  d.branches = d.from_text && r.below(2) == 0;
  d.max_tokens = r.between(1, 8);
  s.network.latency_max = nanoseconds(r.between(60'000, 800'000));
  s.network.latency_min = nanoseconds(20'000);
  for (auto& q : s.requests) {
    q.prompt_tokens = r.between(1, 30);
    q.max_tokens = r.between(6, 22);
  }
  if (!with_faults) return;
  d.liar = r.below(3) == 0;
  if (r.below(3) == 0) d.lose = 0.02 + 0.3 * r.fraction();
  if (r.below(3) == 0) s.network.duplicate = 0.3;
  if (r.below(2) == 0) s.faults.clear();
  const auto faults = r.between(1, 5);
  for (std::uint32_t i = 0; i < faults; ++i) {
    fault f;
    const fault_kind kinds[] = {
        fault_kind::kill,        fault_kind::vanish,    fault_kind::pause,
        fault_kind::cut,         fault_kind::cut_both,  fault_kind::drain,
        fault_kind::lose_device, fault_kind::partition, fault_kind::slow_device};
    f.kind = kinds[r.below(9)];
    const auto& during = s.requests[r.below(s.requests.size())];
    f.at = during.at + milliseconds(r.below(30));
    f.duration = milliseconds(1 + r.below(r.below(2) == 0 ? 60 : 5000));
    f.a = s.num_engines() + s.num_stores + 1 + static_cast<std::uint32_t>(r.below(d.num_drafts));
    // From the directory too: it takes the draft for dead and the decode node does not.
    f.b = static_cast<std::uint32_t>(r.below(1 + s.num_decode));
    const bool swapped = f.b > 0 && r.below(4) == 0;
    if (swapped) std::swap(f.a, f.b);
    s.faults.push_back(f);
  }
}

}  // namespace

const char* to_string(fault_kind k) {
  switch (k) {
    case fault_kind::kill:
      return "kill";
    case fault_kind::vanish:
      return "vanish";
    case fault_kind::pause:
      return "pause";
    case fault_kind::cut:
      return "cut";
    case fault_kind::cut_both:
      return "cut both ways";
    case fault_kind::cut_fabric:
      return "cut pulls";
    case fault_kind::partition:
      return "partition";
    case fault_kind::weather:
      return "bad fabric";
    case fault_kind::drain:
      return "drain";
    case fault_kind::lose_device:
      return "lose device";
    case fault_kind::slow_device:
      return "slow device";
    case fault_kind::kill_client:
      return "kill client";
    case fault_kind::spoil_store:
      return "spoil store";
  }
  return "?";
}

std::string scenario::process_name(std::uint32_t index) const {
  if (index == 0) return "server";
  if (index <= num_decode) return "decode-" + std::to_string(index - 1);
  if (is_store(index)) return "store-" + std::to_string(index - 1 - num_engines());
  if (is_draft(index)) return "draft-" + std::to_string(index - 1 - num_engines() - num_stores);
  return "prefill-" + std::to_string(index - 1 - num_decode);
}

scenario make_scenario(std::uint64_t seed, bool with_faults, emphasis on) {
  random r(seed * 0x9E3779B97F4A7C15ull + 1);
  scenario s;
  s.seed = seed;
  s.origin = "troupe_simulate --seed " + std::to_string(seed) + (with_faults ? "" : " --calm") +
             (on == emphasis::pulls    ? " --pulls"
              : on == emphasis::stores ? " --stores"
              : on == emphasis::drafts ? " --drafts"
                                       : "");
  s.device = r.below(16) == 0 ? device_kind::tiny_model : device_kind::hashes;
  s.num_decode = r.between(1, 3);
  s.num_prefill = r.between(0, 2);
  s.num_clients = r.between(1, 2);
  const std::uint32_t pools[] = {14, 20, 32, 64};
  s.num_blocks = with_faults ? pools[r.below(4)] : 64;
  s.max_num_seqs = r.between(2, 8);
  s.max_prefill_chunk = 4 * r.between(1, 4);
  s.max_num_batched_tokens = r.between(16, 48);
  s.prefix_caching = r.below(4) != 0;
  s.lease = milliseconds(r.between(1000, 4000));
  s.network.latency_max = nanoseconds(r.between(200'000, 5'000'000));
  s.network.through_wire = r.below(8) == 0;
  s.fabric.latency_max = nanoseconds(r.between(50'000, 3'000'000));
  if (r.below(2) == 0) s.fabric.gigabytes_per_second = 1e-4;  // so that pulls last
  const milliseconds span(r.between(300, 3000));
  const auto count = r.between(3, 14);
  for (std::uint32_t i = 0; i < count; ++i) {
    request q;
    q.at = milliseconds(r.below(static_cast<std::uint64_t>(span.count())));
    q.client = static_cast<std::uint32_t>(r.below(s.num_clients));
    q.family = static_cast<std::uint32_t>(r.below(3));
    q.prompt_tokens = r.between(1, 36);
    q.max_tokens = r.between(1, 14);
    q.variant = static_cast<std::uint32_t>(r.below(4));
    if (with_faults && r.below(6) == 0) q.cancel_after = milliseconds(1 + r.below(400));
    if (with_faults && r.below(8) == 0) q.timeout = milliseconds(r.between(1, 1500));
    s.requests.push_back(q);
  }
  std::sort(s.requests.begin(), s.requests.end(),
            [](const request& a, const request& b) { return a.at < b.at; });
  random of_stores(seed * 0xC2B2AE3D27D4EB4Full + 3);
  const bool stores =
      on == emphasis::stores || (on == emphasis::by_seed && of_stores.below(4) == 0);
  random of_drafts(seed * 0x9FB21C651E98DF25ull + 5);
  const bool drafts =
      on == emphasis::drafts || (on == emphasis::by_seed && of_drafts.below(4) == 0);
  if (!with_faults) {
    if (stores) dwell_on_stores(of_stores, s);
    if (drafts) dwell_on_drafts(of_drafts, s, false);
    return s;
  }
  s.max_waiting = r.between(3, 16);
  if (r.below(3) == 0) s.network.duplicate = 0.05 + 0.2 * r.fraction();
  for (std::uint32_t i = 0; i < 5; ++i)  // no more nodes than that
    s.skew.push_back({milliseconds(r.below(600'000)), 0.9 + 0.2 * r.fraction()});
  s.fabric_weather = bad_weather(r);
  const auto faults = r.between(1, 6);
  for (std::uint32_t i = 0; i < faults; ++i)
    s.faults.push_back(make_fault(r, s, span + milliseconds(500)));
  if (on == emphasis::pulls || (on == emphasis::by_seed && r.below(3) == 0)) dwell_on_pulls(r, s);
  if (stores) dwell_on_stores(of_stores, s);
  if (drafts) dwell_on_drafts(of_drafts, s, true);
  std::sort(s.faults.begin(), s.faults.end(),
            [](const fault& a, const fault& b) { return a.at < b.at; });
  return s;
}

std::string describe(const scenario& s) {
  std::ostringstream o;
  o << "seed " << s.seed << ": " << s.num_decode << " decode, " << s.num_prefill << " prefill, "
    << s.num_stores << " stores of " << s.store_blocks << ", " << s.num_blocks << " blocks of "
    << s.block_tokens << ", chunks of " << s.max_prefill_chunk << ", lease " << s.lease.count()
    << " ms, prefix cache " << (s.prefix_caching ? "on" : "off")
    << (s.device == device_kind::hashes          ? ", hash device"
        : s.device == device_kind::peaked_hashes ? ", peaked hash device"
                                                 : ", tiny model")
    << '\n';
  if (const auto& d = s.drafts; d.num_drafts > 0)
    o << "  " << d.num_drafts << " drafts of " << d.num_blocks << " blocks, other tokens in "
      << d.other_percent << " % of places" << (d.liar ? ", the last one lies" : "") << ", "
      << static_cast<int>(100 * d.lose) << " % of messages lost, at most " << d.max_tokens
      << " guesses a pass, " << (d.measured ? "by their cost" : "always")
      << (d.trial ? ", if a trial shows their worth" : "")
      << (d.from_text ? ", also from the text" : "") << (d.history ? ", from answers before" : "")
      << (d.branches ? ", more than one where they differ" : "") << '\n';
  for (std::size_t i = 0; i < s.requests.size(); ++i) {
    const auto& q = s.requests[i];
    o << "  at " << q.at.count() << " ms request " << i + 1 << " of client " << q.client
      << ": prompt " << q.prompt_tokens << " (family " << q.family << "), " << q.max_tokens
      << " tokens, sampling " << q.variant << ", timeout " << q.timeout.count() << " ms";
    if (q.cancel_after.count() > 0) o << ", canceled after " << q.cancel_after.count() << " ms";
    o << '\n';
  }
  for (const auto& f : s.faults) {
    o << "  at " << f.at.count() << " ms " << to_string(f.kind);
    if (f.kind == fault_kind::kill_client)
      o << ' ' << f.a;
    else if (f.kind != fault_kind::weather)
      o << ' ' << s.process_name(f.a);
    if (f.kind == fault_kind::cut || f.kind == fault_kind::cut_both)
      o << " to " << s.process_name(f.b);
    if (f.kind == fault_kind::cut_fabric) o << " from " << s.process_name(f.b);
    o << " for " << f.duration.count() << " ms\n";
  }
  return o.str();
}

}  // namespace troupe::simulation
