// Every command with its flags, for CLI11; private to the command line's files.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <string>

#include "api/config.hpp"
#include "api/flag_values.hpp"

namespace troupe::api {

// A subcommand with what it fills. The pieces of config structs are shared, so are the functions that add their flags.
struct builder {
  CLI::App app{"Distributed LLM serving whose roles are actors.", "troupe"};
  serve_config serve;
  node_config node;
  launch_config launch;
  ask_config run, chat;
  inspect_config inspect;
  tokenize_config tokenize;
  status_config status;
  drain_config drain;
  simulate_config simulate;
  quantize_config quantize;
  prune_config prune;
  bench_serve_config bench_serve;
  bench_engine_config bench_engine;
  bench_kv_config bench_kv;
  cache_config cache[5];                            // status, clear, warm, pin, unpin
  std::string store_memory[2], store_disk_size[2];  // of serve, node: parsed after the fact
  std::string kv_memory[4];  // of serve, node, run, chat: parsed after the fact
  std::map<CLI::App*, std::string> config_files;
};

void build(builder& b);

// Of several commands.
CLI::App* add_command(CLI::App& parent, const char* name, const char* help);
void add_model(CLI::App& a, model_choice& m, bool names);
void add_model_name(CLI::App& a, std::string& name);  // of a server's models
void add_runner(CLI::App& a, gpu::runner_options& r);
void add_step_sizes(CLI::App& a, actors::engine_settings& e, int most_seqs, const char* group);
void add_url(CLI::App& a, std::string& url, std::string& key, const char* help);

void add_simulate(builder& b);  // command_flags_simulate.cpp
void add_bench(builder& b);     // command_flags_bench.cpp
void add_tools(builder& b);     // command_flags_tools.cpp: inspect, tokenize, status, cache, drain

// command_flags_models.cpp
void add_drafts(CLI::App& serve, serve_config& c);
void add_model_makers(builder& b);  // quantize, prune

}  // namespace troupe::api
