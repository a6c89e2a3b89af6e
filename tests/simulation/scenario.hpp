// What a schedule consists of, as plain data: a cluster, requests, faults. All of it comes from one seed; a scenario
// can also be written by hand (classes_test.cpp) and made smaller (shrink.hpp).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/simulation/process_network.hpp"
#include "transport/sim/fabric.hpp"

namespace troupe::simulation {

enum class device_kind : std::uint8_t { hashes, peaked_hashes, tiny_model };

enum class fault_kind : std::uint8_t {
  kill,         // the process of node a is gone; its peers hear a FIN; restarted after `duration`
  vanish,       // its host is gone: peers hear nothing; restarted likewise
  pause,        // SIGSTOP for `duration`
  cut,          // actors' messages from a to b are held back for `duration`
  cut_both,     // in both directions
  cut_fabric,   // pulls of a from b do not move for `duration`
  partition,    // a is cut from everybody, messages and pulls, for `duration`
  weather,      // the fabric drops, corrupts, truncates, delays, fails, refuses for `duration`
  drain,        // node a takes no new work, finishes, leaves, and is started again
  lose_device,  // every pass of node a fails from now on
  slow_device,  // passes of node a take up to 300 ms more for `duration`
  kill_client,  // a client is gone
  spoil_store,  // bits of KV store a's memory flip
};
inline constexpr int num_fault_kinds = 12;  // of any cluster
const char* to_string(fault_kind k);

// Processes by index: 0 is the server (directory, router, gateway), then decode nodes, prefill nodes, KV stores, drafts;
// clients are numbered by themselves.
struct fault {
  fault_kind kind = fault_kind::kill;
  milliseconds at{0}, duration{0};
  std::uint32_t a = 0, b = 0;
};

struct request {
  milliseconds at{0};
  std::uint32_t client = 0;
  std::uint32_t family = 0;  // requests of a family share the beginning of their prompt
  std::uint32_t prompt_tokens = 0, max_tokens = 0;
  std::uint32_t variant = 0;  // of the sampling parameters
  milliseconds timeout{20'000};
  milliseconds cancel_after{0};  // 0: never
};

struct clock_skew {
  milliseconds offset{0};
  double rate = 1.0;
};

// Draft nodes and what decode nodes do with their guesses.
struct drafting {
  std::uint32_t num_drafts = 0, num_blocks = 24;
  std::uint32_t other_percent = 30;  // of places where they guess another token than the target's
  bool liar = false;                 // the last one talks nonsense
  double lose = 0;                   // of the messages between it and decode nodes
  // Passes of engines take time on their own clocks, so that they know what a guess costs; else guesses are always used.
  bool measured = false;
  bool trial = false;
  bool from_text = false, history = false, branches = false;  // other guesses beside theirs
  std::uint32_t max_tokens = 8;
};

struct scenario {
  std::uint64_t seed = 1;                     // of everything that the data below does not say
  std::string origin = "a schedule by hand";  // how to come by it again
  device_kind device = device_kind::hashes;
  std::uint32_t num_decode = 1, num_prefill = 1, num_stores = 0, num_clients = 1;
  std::uint32_t store_blocks = 24;
  drafting drafts;
  std::uint32_t num_blocks = 64, block_tokens = 4, max_num_seqs = 8, max_prefill_chunk = 8;
  std::uint32_t max_num_batched_tokens = 32, max_waiting = 16;
  milliseconds lease{3000};
  bool prefix_caching = true;
  std::vector<clock_skew> skew;  // one a node, in the order of processes; missing: none
  network_weather network;
  transport::sim_faults fabric;          // always
  transport::sim_faults fabric_weather;  // while `weather` lasts
  std::vector<request> requests;
  std::vector<fault> faults;

  std::uint32_t num_engines() const { return num_decode + num_prefill; }
  std::uint32_t num_nodes() const { return num_engines() + num_stores + drafts.num_drafts; }
  bool is_store(std::uint32_t index) const {
    return index > num_engines() && index <= num_engines() + num_stores;
  }
  bool is_draft(std::uint32_t index) const { return index > num_engines() + num_stores; }
  bool is_liar(std::uint32_t index) const { return drafts.liar && index == num_nodes(); }
  // Every guess must be right: the drafts compute what the targets compute, and nobody else guesses.
  bool perfect_drafts() const {
    return drafts.other_percent == 0 && !drafts.liar && !drafts.from_text;
  }
  std::string process_name(std::uint32_t index) const;
};

// What a seed's schedule dwells on: everything a little, or pulls: long prompts, slow links, faults of prefill nodes
// while their blocks are read, canceled readers, repeated messages.
// Or KV stores: prompts that begin alike, small caches, faults of stores and of nodes that come back with nothing.
// Or drafts: long answers, guesses that are right now and then, few blocks, faults of drafts and of those they guess for.
enum class emphasis : std::uint8_t { by_seed, everything, pulls, stores, drafts };
scenario make_scenario(std::uint64_t seed, bool with_faults, emphasis on = emphasis::by_seed);
std::string describe(const scenario& s);

}  // namespace troupe::simulation
