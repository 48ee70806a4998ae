{{/* Names, labels and the parts that every pod has. */}}

{{- define "galen.fullname" -}}
{{- $name := .Release.Name -}}
{{- if not (contains "galen" $name) -}}{{- $name = printf "%s-galen" $name -}}{{- end -}}
{{- $name | trunc 30 | trimSuffix "-" -}}
{{- end -}}

{{- define "galen.selector" -}}
app.kubernetes.io/name: galen
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "galen.labels" -}}
{{ include "galen.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: galen
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "galen.secret" -}}
{{- .Values.existingSecret | default (printf "%s-secrets" (include "galen.fullname" .)) -}}
{{- end -}}

{{- define "galen.image" -}}
{{ with .root.Values.image.registry }}{{ . }}/{{ end }}{{ .name }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end -}}

{{/* A model's name as a part of names: what is not allowed there becomes a dash. */}}
{{- define "galen.slug" -}}
{{- regexReplaceAll "[^a-z0-9]+" (lower .) "-" | trunc 24 | trimAll "-" -}}
{{- end -}}

{{/* Longest life of a request and a little more: no answer takes longer. */}}
{{- define "galen.drainSeconds" -}}
{{- add .Values.requestTimeoutSeconds 5 -}}
{{- end -}}

{{/* Pod fields that all have: no token, nobody's privileges, no variables of services (one called
     galen-gateway would set GALEN_GATEWAY_PORT). */}}
{{- define "galen.podSecurity" -}}
serviceAccountName: {{ .account | default (include "galen.fullname" .root) }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user | default 10001 }}
  runAsGroup: {{ .user | default 10001 }}
  fsGroup: {{ .user | default 10001 }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "galen.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{- define "galen.placing" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{- define "galen.spread" -}}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- $.labels | nindent 8 }}
  {{- end }}
{{- end -}}

{{/* Where files are kept on a disk of one node, whoever uses them has to be there. */}}
{{- define "galen.beTogether" -}}
{{- $files := .root.Values.files -}}
{{- $together := and $files.enabled (eq $files.accessMode "ReadWriteOnce") -}}
{{- $affinity := deepCopy .affinity -}}
{{- if $together -}}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (dict "app.kubernetes.io/instance" .root.Release.Name "galen-files" "shared")) -}}
{{- $pods := dig "podAffinity" dict $affinity -}}
{{- $terms := append (dig "requiredDuringSchedulingIgnoredDuringExecution" list $pods) $term -}}
{{- $_ := set $pods "requiredDuringSchedulingIgnoredDuringExecution" $terms -}}
{{- $_ := set $affinity "podAffinity" $pods -}}
{{- end -}}
{{- with $affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Services with a user of their own in Redis: those of files/users.acl. */}}
{{- define "galen.redisUsers" -}}gateway jobs worker{{- end -}}

{{/* Secrets are files, named as the settings are: variables are seen by too many. Not in /run/secrets:
     clusters put tokens below it, which a volume that is only read has no room for. */}}
{{- define "galen.secretsVolume" -}}
- name: secrets
  secret:
    secretName: {{ include "galen.secret" .root }}
    defaultMode: 0440
    items:
      {{- range $key, $path := .items }}
      - key: {{ $key }}
        path: {{ $path }}
      {{- end }}
{{- end -}}

{{- define "galen.secretsMount" -}}
- name: secrets
  mountPath: /etc/galen/secrets
  readOnly: true
{{- end -}}

{{- define "galen.secretsPlace" -}}
- name: GALEN_SECRETS_DIR
  value: /etc/galen/secrets
{{- end -}}

{{- define "galen.writable" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ .tmp | default "2Gi" }}
- name: data
  emptyDir:
    sizeLimit: {{ .data | default "2Gi" }}
{{- end -}}

{{- define "galen.writableMounts" -}}
- name: tmp
  mountPath: /tmp
- name: data
  mountPath: /data
{{- end -}}

{{- define "galen.filesVolume" -}}
{{- if .Values.files.enabled }}
- name: files
  persistentVolumeClaim:
    claimName: {{ .Values.files.existingClaim | default (printf "%s-files" (include "galen.fullname" .)) }}
{{- end }}
{{- end -}}

{{- define "galen.filesMount" -}}
{{- if .Values.files.enabled }}
- name: files
  mountPath: /data/files
{{- end }}
{{- end -}}

{{- define "galen.settings" -}}
{{- range $name, $value := .values }}
- name: {{ $.prefix }}{{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}
