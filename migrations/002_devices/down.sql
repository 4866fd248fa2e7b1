DROP TABLE device_batches, inbox, one_time_prekeys, kem_prekeys, signed_prekeys, devices, device_lists, certificates, identities;
